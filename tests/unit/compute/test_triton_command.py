"""Triton's command line and environment, the instance's secret, the log, the preflight."""

from __future__ import annotations

import hashlib
import hmac
import sys
from pathlib import Path

import pytest

from chassis.instance_secret import instance_secret
from services.deploy.compute import preflight as preflight_module
from services.deploy.compute.engine_log import EngineLog, read_last_lines
from services.deploy.compute.preflight import preflight
from services.deploy.compute.server import shm_prefix
from services.deploy.compute.triton import (
    TritonFiles,
    TritonMissing,
    find_triton,
    prepare_backends,
    triton_arguments,
    triton_environment,
)

PROTOCOLS = {
    "health",
    "metadata",
    "inference",
    "shared-memory",
    "model-config",
    "model-repository",
    "statistics",
    "trace",
    "logging",
}


def arguments() -> list[str]:
    return triton_arguments(
        find_triton(),
        repository=Path("/r"),
        backends=Path("/b"),
        host="127.0.0.1",
        grpc_port=5001,
        metrics_port=5002,
        secret="the-secret",
        shm_prefix="modelyard-uid-",
        exit_timeout_s=5,
    )


def test_every_protocol_of_triton_needs_the_secret() -> None:
    (restricted,) = [value for value in arguments() if value.startswith("--grpc-restricted-protocol=")]
    protocols, _, key = restricted.partition("=")[2].partition(":")
    assert set(protocols.split(",")) == PROTOCOLS
    assert key == "modelyard-instance=the-secret"


def test_triton_listens_on_loopback_only() -> None:
    given = arguments()
    assert "--allow-http=false" in given
    assert [value for value in given if "-address=" in value] == [
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
    ]


def test_tritons_environment_holds_nothing_it_was_not_meant_to_have() -> None:
    environment = triton_environment(find_triton(), {"HOME": "/h", "MODELYARD_TOKEN": "x", "PATH": "/bin"})
    assert set(environment) == {
        "HOME",
        "LD_LIBRARY_PATH",
        "OMP_WAIT_POLICY",
        "PATH",
        "PYTHONDONTWRITEBYTECODE",
        "VIRTUAL_ENV",
    }
    assert environment["PATH"].startswith(f"{Path(sys.executable).parent}:")


def test_the_backends_folder_has_this_pythons_stub(tmp_path: Path) -> None:
    files = find_triton()
    for _ in range(2):
        folder = prepare_backends(tmp_path / "backends", files)
    assert (folder / "python" / "triton_python_backend_stub").resolve() == files.stub.resolve()


def test_no_shared_memory_prefix_begins_another() -> None:
    assert not shm_prefix("uid-10").startswith(shm_prefix("uid-1"))


def test_an_instances_secret_is_the_hmac_of_its_uid() -> None:
    expected = hmac.new(b"0123456789abcdef", b"uid", hashlib.sha256).hexdigest()
    assert instance_secret(b"0123456789abcdef", "uid") == expected
    assert instance_secret(b"0123456789abcdef", "other") != expected


def test_a_short_cluster_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="has 3 bytes; at least 16 are needed"):
        instance_secret(b"abc", "uid")


def test_the_log_keeps_two_parts_of_limited_size(tmp_path: Path) -> None:
    path = tmp_path / "triton.log"
    log = EngineLog(path, bytes_max=100)
    for number in range(40):
        log.write(f"line {number:03}\n".encode())
    log.close()
    assert path.stat().st_size <= 100
    assert path.with_name("triton.log.1").stat().st_size <= 100
    assert read_last_lines(path, 3) == ["line 037", "line 038", "line 039"]
    assert len(read_last_lines(path, 1000)) > 11
    assert read_last_lines(tmp_path / "none", 5) == []


def test_this_machine_can_run_instances() -> None:
    findings = preflight()
    assert [finding.name for finding in findings] == [
        "operating system",
        "C library",
        "Python",
        "Triton",
        "Python library",
        "OpenMP library",
    ]
    assert [(finding.name, finding.detail) for finding in findings if not finding.ok] == []


def test_a_missing_triton_has_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> TritonFiles:
        raise TritonMissing("not installed")

    monkeypatch.setattr(preflight_module, "find_triton", missing)
    found = {finding.name: finding for finding in preflight()}
    assert not found["Triton"].ok
    assert "pip install" in found["Triton"].way_out
    assert not found["Python library"].ok


def test_a_missing_python_library_has_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a model load hangs, so it is looked for before."""
    monkeypatch.setattr(preflight_module, "PYTHON_LIBRARY", "libpython9.99.so.1.0")
    found = {finding.name: finding for finding in preflight()}["Python library"]
    assert (found.ok, found.detail) == (False, "libpython9.99.so.1.0 cannot be loaded")
    assert "apt install libpython" in found.way_out
