"""kill -9, of one process of one platform."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.infra.up import Up

SERVICES = ("catalog", "deploy", "billing", "inference")


def kill(up: Up, part: str, instance_uid: str = "") -> int:
    """Kill a service, `nats`, or the `triton`, `stub` or `keeper` of an instance; the process that died."""
    if part in SERVICES:
        pid = int(json.loads((up.home / "run" / f"{part}.json").read_text())["pid"])
    elif part == "nats":
        pid = _find("nats-server", str(up.home / "nats"))
    else:
        program = {"triton": "tritonserver", "stub": "triton_python_backend_stub", "keeper": "compute.keeper"}[part]
        pid = _find(program, instance_uid)
    os.kill(pid, signal.SIGKILL)
    return pid


def instance_processes(home: Path) -> dict[str, list[str]]:
    """Programs of instances that run below a platform's folder, by instance uid."""
    found: dict[str, list[str]] = {}
    marker = str(home / "deploy" / "instances") + "/"
    for pid, arguments in _commands():
        for argument in arguments:
            if marker in argument:
                uid = argument.partition(marker)[2].partition("/")[0]
                found.setdefault(uid, []).append(f"{pid} {Path(arguments[0]).name}")
                break
    return found


def _find(program: str, text: str) -> int:
    matches = [
        pid
        for pid, arguments in _commands()
        if any(program in argument for argument in arguments) and any(text in argument for argument in arguments)
    ]
    assert matches, f"no {program} with {text} runs"
    return matches[0]


def _commands() -> list[tuple[int, list[str]]]:
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            content = (folder / "cmdline").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if content and state not in "ZX":
            found.append((int(folder.name), [part.decode(errors="replace") for part in content.split(b"\0") if part]))
    return found
