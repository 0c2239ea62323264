"""From nothing to a platform that answers, to the first token, and what an idle platform holds in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import psutil

from bench.options import Options
from bench.results import Mark, Result, of_runs

ROOT = Path(__file__).parents[1]
READY_S_MAX = 10.0
FIRST_TOKEN_S_MAX = 20.0
IDLE_PSS_MB_MAX = 700.0
# What is made at the start and not needed any more is given back by then.
_IDLE_AFTER_S = 3.0
_GIVE_UP_S = 180.0
# What the demo prints before its first streamed answer.
_FIRST_ANSWER = b"openai, streamed, chat:"


class StartFailed(Exception):
    """A command did not come as far as it should; says how it ended."""


async def measure(options: Options) -> list[Result]:
    """Each start has a data folder of its own and nothing in it."""
    ready_s: list[float] = []
    idle_mb: list[float] = []
    first_token_s: list[float] = []
    for run in range(options.runs):
        ready, held = await _ready(options.new_folder(f"up-{run}"))
        ready_s.append(ready)
        idle_mb.append(held)
        first_token_s.append(await _first_token_s(options.new_folder(f"demo-{run}")))
    cores = f"{os.cpu_count()} cores"
    return [
        of_runs(
            "platform_ready_s",
            ready_s,
            "s",
            f"`modelyard up` in an empty folder until all answers, {cores}",
            Mark(at_most=READY_S_MAX),
        ),
        of_runs(
            "first_token_s",
            first_token_s,
            "s",
            f"warm `make demo` until its first streamed token, {cores}: start, quotes and three deployments included",
            Mark(at_most=FIRST_TOKEN_S_MAX),
        ),
        of_runs(
            "idle_pss_mb",
            idle_mb,
            "MB",
            f"PSS of supervisor, nats-server and four services, {_IDLE_AFTER_S:g} s after the start, no instances",
            Mark(at_most=IDLE_PSS_MB_MAX),
        ),
    ]


async def _ready(home: Path) -> tuple[float, float]:
    """Seconds until the platform answers, and the megabytes it holds when it idles."""
    began_at = monotonic()
    async with running([sys.executable, "-c", "from cli.main import main; main()", "up"], home, ROOT) as process:
        while not (home / "addresses.json").exists():
            if process.returncode is not None or monotonic() - began_at > _GIVE_UP_S:
                raise StartFailed(f"`modelyard up` does not answer (exit status {process.returncode})")
            await asyncio.sleep(0.01)
        ready_s = monotonic() - began_at
        await asyncio.sleep(_IDLE_AFTER_S)
        supervisor = psutil.Process(process.pid)
        held = sum(one.memory_full_info().pss for one in (supervisor, *supervisor.children(recursive=True)))
        return ready_s, held / 1e6


async def _first_token_s(home: Path) -> float:
    began_at = monotonic()
    async with running(["make", "demo"], home, ROOT) as process, asyncio.timeout(_GIVE_UP_S):
        assert process.stdout is not None  # noqa: S101 - asked for below
        said = b""
        while not said.partition(_FIRST_ANSWER)[2].strip():
            more = await process.stdout.read(4096)
            if not more:
                raise StartFailed(f"the demo ended without a token: {said.decode(errors='replace')[-2000:]}")
            said += more
        return monotonic() - began_at


@asynccontextmanager
async def running(
    command: list[str], home: Path, folder: Path, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command and all it started, stopped as by Ctrl-C at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, "MODELYARD_HOME": str(home), "NO_COLOR": "1", **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        # What it says while it stops must not fill the pipe.
        await process.communicate()
