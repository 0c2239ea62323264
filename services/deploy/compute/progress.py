"""Whether processes get on with their work, as the kernel counts it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

# Processes that only wait use less of a core than this.
_WORKING_SHARE = 0.02


@dataclass(frozen=True)
class _Work:
    """What a process has done so far, and whether it waits for a disk."""

    core_s: float
    read_bytes: int
    waits_for_disk: bool


class Progress:
    """When a group of processes last got on: one used a core, read from a disk or waited for one, or was new."""

    def __init__(self) -> None:
        self._at_s = time.monotonic()
        self._seen: dict[int, _Work] = {}

    def idle_s(self, processes: Iterable[psutil.Process]) -> float:
        """Look at the processes there are now.

        Returns:
            Seconds since the look that last found them getting on.
        """
        now_s = time.monotonic()
        found = {one.pid: work for one in processes if (work := _work_of(one)) is not None}
        least_core_s = _WORKING_SHARE * (now_s - self._at_s)
        if any(self._got_on(pid, work, least_core_s) for pid, work in found.items()):
            self._at_s, self._seen = now_s, found
        return now_s - self._at_s

    def _got_on(self, pid: int, work: _Work, least_core_s: float) -> bool:
        before = self._seen.get(pid)
        return (
            before is None
            or work.waits_for_disk
            or work.read_bytes > before.read_bytes
            or work.core_s - before.core_s > least_core_s
        )


def describe_waits(processes: Iterable[psutil.Process]) -> str:
    """Each process with its state and where in the kernel its threads sleep, for the log of something that hangs."""
    return "; ".join(map(_describe_waits, processes)) or "no process is there"


def _work_of(process: psutil.Process) -> _Work | None:
    """None for a process that has ended."""
    try:
        with process.oneshot():
            status, times = process.status(), process.cpu_times()
            if status == psutil.STATUS_ZOMBIE:
                return None
            read_bytes = process.io_counters().read_bytes
            return _Work(times.user + times.system, read_bytes, status == psutil.STATUS_DISK_SLEEP)
    except psutil.NoSuchProcess:
        return None


def _describe_waits(process: psutil.Process) -> str:
    try:
        places = {_wait_of(process.pid, thread.id) for thread in process.threads()}
        return f"{process.name()} {process.pid} is {process.status()} ({', '.join(sorted(places))})"
    except psutil.NoSuchProcess:
        return f"{process.pid} is gone"


def _wait_of(pid: int, thread_id: int) -> str:
    try:
        return Path(f"/proc/{pid}/task/{thread_id}/wchan").read_text()
    except OSError:
        return "not to be read"
