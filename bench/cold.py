"""`make demo` as somebody sees it for the first time: a fresh clone, and nothing in pip's cache."""

from __future__ import annotations

import asyncio
import re
import shutil
from time import monotonic

from bench.options import Options
from bench.results import Result, of_runs
from bench.start import ROOT, StartFailed, running

_GIVE_UP_S = 1800.0
_DOWNLOADED = re.compile(r"Downloading \S+ \((?P<amount>[\d.]+) (?P<unit>[kM]?B)\)")
_MB = {"B": 1e-6, "kB": 1e-3, "MB": 1.0}


async def measure(options: Options) -> list[Result]:
    """Once, whatever the number of runs."""
    clone = options.folder / "clone"
    cloning = await asyncio.create_subprocess_exec("git", "clone", "-q", str(ROOT), str(clone))
    if await cloning.wait() != 0:
        raise StartFailed("git could not clone this repository")
    began_at = monotonic()
    async with running(["make", "demo"], clone / "var", clone, PIP_NO_CACHE_DIR="1") as process:
        assert process.stdout is not None  # noqa: S101 - asked for below
        async with asyncio.timeout(_GIVE_UP_S):
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
