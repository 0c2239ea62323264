"""The embedded broker keeps its port, its state and its secrets."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from embedded.nats_identity import NatsIdentities
from embedded.nats_server import NatsServer, NatsServerFailed, NatsServerSettings
from embedded.parent_death import tied_command
from tests.infra.broker import Broker


async def test_acknowledged_messages_survive_a_kill(own_nats: Broker) -> None:
    """kill -9, and the next start on the same port has every acknowledged message."""
    bus = await own_nats.bus_as("billing")
    for number in range(20):
        await bus.publish_raw("modelyard.billing.v1.usage.posted._", str(number).encode(), {})
    port = own_nats.server.port
    own_nats.server.kill()
    await own_nats.server.start()
    assert own_nats.server.port == port
    state = (await (await own_nats.tester()).jetstream.stream_info("BILLING")).state
    assert state.messages == 20


async def test_secrets_are_for_their_owner_alone(own_nats: Broker) -> None:
    """Seeds, credentials and the configuration are 0600, their folders 0700."""
    secrets = [
        *own_nats.identities.folder.iterdir(),
        *own_nats.credentials.values(),
        own_nats.server.folder / "nats.conf",
    ]
    assert len(secrets) > 8
    for path in secrets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for folder in {path.parent for path in secrets}:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


async def test_the_same_folder_gives_the_same_identities(tmp_path: Path) -> None:
    """Credentials of the last start are still good after the next one."""
    first = NatsIdentities.create(tmp_path / "identities")
    second = NatsIdentities.create(tmp_path / "identities")
    assert first.system_account == second.system_account


async def test_a_server_that_cannot_start_says_why(tmp_path: Path, own_nats: Broker) -> None:
    """The error carries the end of the server's log."""
    taken = NatsServerSettings(port=own_nats.server.port, ready_timeout_s=5)
    server = NatsServer(tmp_path / "second", own_nats.identities, taken, tied=True)
    # The port answers, but it is another server's: this one has ended.
    with pytest.raises(NatsServerFailed, match="in use"):
        await server.start()


async def test_a_tied_child_dies_with_its_parent(tmp_path: Path) -> None:
    """kill -9 of the parent leaves nothing running."""
    pid_file = tmp_path / "child.pid"
    child = f"import os, time, pathlib; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); time.sleep(60)"
    parent = (
        "import subprocess, sys, time; from embedded.parent_death import tied_command; "
        f"subprocess.Popen(tied_command([sys.executable, '-c', {child!r}])); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=Path(__file__).parents[3])  # noqa: ASYNC220
    async with asyncio.timeout(20):
        while not pid_file.exists() or not pid_file.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    pid = int(pid_file.read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    async with asyncio.timeout(10):
        while _runs(pid):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_tied_command_without_its_parent_does_not_start() -> None:
    """The parent that died before the kernel was asked is noticed."""
    command = tied_command(["/bin/true"])
    command[command.index(str(os.getpid()))] = "1"
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0
