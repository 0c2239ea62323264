"""The supervisor keeps its children running, shows what they say, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from embedded.supervisor import Child, Supervisor, SupervisorLimits
from tests.infra.instances import wait_until

LIMITS = SupervisorLimits(restart_s_first=0.05, restart_s_max=0.4, line_bytes_max=1024)

# Says its pid and that it is ready; on SIGTERM says goodbye.
_POLITE = """
import json, os, signal, sys
def leave(*_):
    print("goodbye", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
open(sys.argv[1], "w").write(json.dumps({"pid": os.getpid()}))
print("hello", flush=True)
signal.pause()
"""
_DEAF = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("hello", flush=True)
while True:
    signal.pause()
"""


class Stage:
    """A supervisor and what it showed."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.supervisor = Supervisor(lambda name, line: self.lines.append((name, line)), LIMITS)

    def start(
        self, name: str, script: str, *arguments: str, ready_file: Path | None = None, stop_s: float = 5
    ) -> Child:
        command = [sys.executable, "-c", script, *arguments]
        child = Child(name, command, dict(os.environ), ready_file=ready_file, stop_s=stop_s)
        self.supervisor.start(child)
        return child

    async def until_said(self, name: str, line: str, *, times: int = 1) -> None:
        await wait_until(lambda: self.lines.count((name, line)) >= times)


@pytest_asyncio.fixture
async def stage() -> AsyncIterator[Stage]:
    made = Stage()
    yield made
    await made.supervisor.stop(list(made.supervisor.children))


async def test_a_killed_child_is_started_again(stage: Stage, tmp_path: Path) -> None:
    """Whatever ends it; the log says how it ended."""
    child = stage.start("worker", _POLITE, str(tmp_path / "ready"))
    await stage.until_said("worker", "hello")
    assert child.process is not None
    os.kill(child.process.pid, signal.SIGKILL)
    await stage.until_said("worker", "hello", times=2)
    assert any("SIGKILL" in line for _, line in stage.lines)


async def test_a_child_that_keeps_ending_is_started_ever_more_slowly(stage: Stage) -> None:
    """The pause doubles up to its limit, so that a broken service does not eat the machine."""
    stage.start("broken", "raise SystemExit(3)")
    await wait_until(lambda: sum("starting it again" in line for _, line in stage.lines) >= 5)
    pauses = [float(line.split()[-2]) for _, line in stage.lines if "ended with status 3" in line]
    assert pauses[:5] == [0.05, 0.1, 0.2, 0.4, 0.4]


async def test_a_child_is_ready_when_the_process_that_runs_now_said_so(stage: Stage, tmp_path: Path) -> None:
    """A file that an earlier process left says nothing."""
    ready = tmp_path / "ready"
    ready.write_text(json.dumps({"pid": 1}))
    child = stage.start("worker", _POLITE, str(tmp_path / "other"), ready_file=ready)
    await stage.until_said("worker", "hello")
    assert not child.is_ready
    ready.write_text((tmp_path / "other").read_text())
    assert child.is_ready


async def test_a_stop_is_clean_and_in_order(stage: Stage, tmp_path: Path) -> None:
    """Each child gets to say goodbye before the next one is told."""
    for name in ("first", "second"):
        stage.start(name, _POLITE, str(tmp_path / name))
        await stage.until_said(name, "hello")
    await stage.supervisor.stop(["second", "first"])
    assert [name for name, line in stage.lines if line == "goodbye"] == ["second", "first"]


async def test_a_child_that_does_not_stop_is_killed(stage: Stage) -> None:
    """After its time; a stop always ends."""
    child = stage.start("deaf", _DEAF, stop_s=0.2)
    await stage.until_said("deaf", "hello")
    assert child.process is not None
    pid = child.process.pid
    await stage.supervisor.stop(["deaf"])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_line_without_end_neither_fills_the_memory_nor_ends_the_log(stage: Stage) -> None:
    """It is left out and said; the lines after it are shown."""
    stage.start("chatty", "print('x' * 5000); print('after', flush=True); import signal; signal.pause()")
    await stage.until_said("chatty", "after")
    assert ("chatty", "a log line of more than 1024 bytes was left out") in stage.lines


async def test_a_program_that_is_not_there_is_said(stage: Stage) -> None:
    """And tried again, since it may come back."""
    stage.supervisor.start(Child("missing", ["/nonexistent/program"], dict(os.environ)))
    await wait_until(lambda: any("cannot be started" in line for _, line in stage.lines))
