"""Services that are told to stop before they are ready."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

SERVICES = ("billing", "catalog", "deploy", "inference")
# Nothing listens there.
NOWHERE = "nats://127.0.0.1:1"
ENDED_S_MAX = 60


def start(service: str, folder: Path, **more: str) -> subprocess.Popen[str]:
    """A service whose NATS is away; it waits for it when this returns."""
    (folder / "cluster.secret").write_bytes(b"a secret of nobody")
    (folder / "token").write_text("a token of nobody")
    settings = {
        "DATA_DIR": str(folder / service),
        "NATS_URL": NOWHERE,
        "SERVICE_TOKEN_FILE": str(folder / "token"),
        "CATALOG_ADDRESS": "127.0.0.1:1",
        "BILLING_ADDRESS": "127.0.0.1:1",
        "DEPLOY_ADDRESS": "127.0.0.1:1",
        "CLUSTER_SECRET_FILE": str(folder / "cluster.secret"),
    }
    environment = {f"MODELYARD_{service.upper()}_{name}": value for name, value in settings.items()}
    return subprocess.Popen(
        [sys.executable, "-m", f"services.{service}"],
        env={**os.environ, **environment, **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], said: str) -> None:
    """Read what it says until it says that."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if said in line:
            return
    raise AssertionError(f"it ended with {process.wait()} and never said {said!r}: {''.join(lines)}")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_waits_for_nats_stops_when_it_is_told_to(service: str, tmp_path: Path) -> None:
    with start(service, tmp_path) as process:
        wait_for(process, "nats error")
        process.send_signal(signal.SIGTERM)
        wait_for(process, "stopped before it was ready")
        assert process.wait(ENDED_S_MAX) == 0


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_waits_for_nats_ends_with_its_supervisor(service: str, tmp_path: Path) -> None:
    """The supervisor was killed, so it stops no one; nobody may be left waiting for a NATS that never comes."""
    gone = max(psutil.pids()) + 1
    with start(service, tmp_path, MODELYARD_PARENT_PID=str(gone)) as process:
        wait_for(process, "the supervisor is gone")
        assert process.wait(ENDED_S_MAX) == 0
