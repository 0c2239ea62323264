"""A wall clock that a test can step, for the processes it is installed in.

The machine's own clock cannot be stepped in a test, so this is a fake: Python reads a module before any of ours, in
which `time.time_ns`, where services and ids take the time of day from, adds what a file says. All other clocks are
real: gRPC makes deadlines of `time.time` and compares them in C, with a clock that the fake does not reach.
"""

from __future__ import annotations

from pathlib import Path

_STEPPED = """
import time

real_ns = time.time_ns


def time_ns():
    with open({file!r}) as step_s:
        return real_ns() + int(step_s.read()) * 10**9


time.time_ns = time_ns
"""


class WallClock:
    """The time of day; right until it is installed and stepped."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "step_s"

    def install(self) -> dict[str, str]:
        """Write the fake; the environment of processes that shall have it."""
        self._folder.mkdir()
        self.step(0)
        (self._folder / "sitecustomize.py").write_text(_STEPPED.format(file=str(self._file)))
        return {"PYTHONPATH": str(self._folder)}

    def step(self, seconds: int) -> None:
        """Set how far the clock is from the right time; 0 sets it right."""
        ready = self._file.with_suffix(".new")
        ready.write_text(str(seconds))
        ready.replace(self._file)
