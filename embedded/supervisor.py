"""Starts, watches and ends child processes: one log view, restart with back-off, clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LogLine = Callable[[str, str], None]


@dataclass(frozen=True)
class SupervisorLimits:
    """`restart_s_first` to `restart_s_max`: pause before a restart, doubling. `steady_s`: after this long the pause is
    short again. `line_bytes_max`: longest log line that is shown.
    """

    restart_s_first: float = 0.3
    restart_s_max: float = 10.0
    steady_s: float = 30.0
    line_bytes_max: int = 64 * 1024


@dataclass
class Child:
    """One process that is kept running.

    `ready_file` is written by the child and holds its pid; `stop_s` is what a clean stop may take.
    """

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    ready_file: Path | None = None
    stop_s: float = 15.0
    process: asyncio.subprocess.Process | None = field(default=None, init=False)
    restarts: int = field(default=0, init=False)

    @property
    def is_ready(self) -> bool:
        """Whether the process that runs now has said that it answers."""
        if self.process is None or self.ready_file is None:
            return False
        try:
            return bool(json.loads(self.ready_file.read_text())["pid"] == self.process.pid)
        except (OSError, ValueError, KeyError):
            return False


class Supervisor:
    """Keeps children running until it is told to stop."""

    def __init__(self, log_line: LogLine, limits: SupervisorLimits | None = None) -> None:
        self._log_line = log_line
        self._limits = limits or SupervisorLimits()
        self._stopping = False
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self.children: dict[str, Child] = {}

    def start(self, child: Child) -> None:
        """Start a child and keep it running."""
        self.children[child.name] = child
        self._keepers[child.name] = asyncio.create_task(self._keep(child), name=f"keep {child.name}")

    async def _keep(self, child: Child) -> None:
        pause_s = self._limits.restart_s_first
        while not self._stopping:
            started = time.monotonic()
            try:
                code = await self._run_once(child)
            except OSError as error:
                code = -1
                self._log_line(child.name, f"cannot be started: {error}")
            if self._stopping:
                return
            if time.monotonic() - started > self._limits.steady_s:
                pause_s = self._limits.restart_s_first
            said = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            self._log_line(child.name, f"{said}; starting it again in {pause_s:g} s")
            child.restarts += 1
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, self._limits.restart_s_max)

    async def _run_once(self, child: Child) -> int:
        # A group of its own: Ctrl-C in the terminal reaches the supervisor alone, which stops children in order.
        process = await asyncio.create_subprocess_exec(
            *child.command,
            env=child.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=self._limits.line_bytes_max,
            process_group=0,
        )
        child.process = process
        try:
            await self._read_log(child.name, process)
            return await process.wait()
        finally:
            if process.returncode is not None:
                child.process = None

    async def _read_log(self, name: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - it was asked for one line above
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                self._log_line(name, f"a log line of more than {self._limits.line_bytes_max} bytes was left out")
                continue
            if not line:
                return
            self._log_line(name, line.decode(errors="replace").rstrip("\n"))

    async def stop(self, order: Sequence[str]) -> None:
        """Stop children one after the other, each with its time; kill the one that takes longer."""
        self._stopping = True
        for name in order:
            child = self.children.get(name)
            if child is not None:
                await self._stop_child(child)
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)

    async def _stop_child(self, child: Child) -> None:
        process = child.process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(child.stop_s):
                await process.wait()
        except TimeoutError:
            self._log_line(child.name, f"did not stop in {child.stop_s:g} s and is killed")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
