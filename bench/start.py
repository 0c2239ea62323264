"""From nothing to a platform that answers, to the first token, and what an idle platform holds in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
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
_COLD_GIVE_UP_S = 1800.0
# What the demo prints before its first streamed answer.
_FIRST_ANSWER = b"openai, streamed, chat:"
_DOWNLOADED = re.compile(r"Downloading \S+ \((?P<amount>[\d.]+) (?P<unit>[kM]?B)\)")
_MB = {"B": 1e-6, "kB": 1e-3, "MB": 1.0}


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
    results = [
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
    return [*results, *(await _cold(options.folder / "clone") if options.cold else [])]


async def _ready(home: Path) -> tuple[float, float]:
    """Seconds until the platform answers, and the megabytes it holds when it idles."""
    began_at = monotonic()
    async with _running([sys.executable, "-c", "from cli.main import main; main()", "up"], home, ROOT) as process:
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
    async with _running(["make", "demo"], home, ROOT) as process, asyncio.timeout(_GIVE_UP_S):
        assert process.stdout is not None  # noqa: S101 - asked for below
        said = b""
        while not said.partition(_FIRST_ANSWER)[2].strip():
            more = await process.stdout.read(4096)
            if not more:
                raise StartFailed(f"the demo ended without a token: {said.decode(errors='replace')[-2000:]}")
            said += more
        return monotonic() - began_at


async def _cold(clone: Path) -> list[Result]:
    """`make demo` in a fresh clone, with nothing in pip's cache."""
    cloning = await asyncio.create_subprocess_exec("git", "clone", "-q", str(ROOT), str(clone))
    if await cloning.wait() != 0:
        raise StartFailed("git could not clone this repository")
    began_at = monotonic()
    async with _running(["make", "demo"], clone / "var", clone, PIP_NO_CACHE_DIR="1") as process:
        assert process.stdout is not None  # noqa: S101 - asked for below
        async with asyncio.timeout(_COLD_GIVE_UP_S):
            said = (await process.stdout.read()).decode(errors="replace")
            status = await process.wait()
    if status != 0:
        raise StartFailed(f"`make demo` in a fresh clone ended with {status}: {said[-2000:]}")
    cold_s = monotonic() - began_at
    downloaded = sum(float(found["amount"]) * _MB[found["unit"]] for found in _DOWNLOADED.finditer(said))
    shutil.rmtree(clone)
    return [
        of_runs("demo_cold_s", [cold_s], "s", "`make demo` in a fresh clone without pip's cache, downloads included"),
        of_runs("download_mb", [downloaded], "MB", "what pip downloaded for it"),
    ]


@asynccontextmanager
async def _running(
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
