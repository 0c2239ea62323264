"""How long a call takes from its last response byte until its record stands in ListUsage."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from time import monotonic

from modelyard.billing.v1 import billing_pb2

from bench.engine import NOOP
from bench.load import Load, run_load
from bench.options import Options
from bench.platform import BenchedPlatform, benched_platform, model_of
from bench.results import Mark, Result, of_runs

RATE_PER_S = 200.0
P99_MS_MAX = 2000.0
# Between two looks; what is seen is late by as much.
LOOK_S = 0.02
PAGE_SIZE = 100


async def measure(options: Options) -> list[Result]:
    """At a steady rate of calls, whatever is still running."""
    p50_ms: list[float] = []
    p99_ms: list[float] = []
    async with benched_platform(options.new_folder("visibility")) as platform:
        load = Load(
            platform.addresses.inference,
            model_of(NOOP),
            platform.headers,
            rate_per_s=RATE_PER_S,
            duration_s=options.seconds(6.0, 3.0),
            noted=True,
        )
        for run in range(options.runs):
            waited_ms = await _waited_ms(platform, replace(load, ids=f"visibility-{run}"))
            p50_ms.append(waited_ms[len(waited_ms) // 2])
            p99_ms.append(waited_ms[int(len(waited_ms) * 0.99)])
    said = (
        f"1 inference, 1 billing on SQLite, 1 tritonclient process on {os.cpu_count()} cores; {RATE_PER_S:g} calls/s for "
        f"{load.duration_s:g} s a run, looked for every {LOOK_S * 1e3:g} ms"
    )
    return [
        of_runs("event_to_visible_p50_ms", p50_ms, "ms", said),
        of_runs("event_to_visible_p99_ms", p99_ms, "ms", said, Mark(at_most=P99_MS_MAX)),
    ]


async def _waited_ms(platform: BenchedPlatform, load: Load) -> list[float]:
    """Of each call, ascending."""
    seen_at: dict[str, float] = {}
    looking = asyncio.create_task(_look(platform, seen_at))
    try:
        measured = await run_load(load)
        await platform.all_committed()
        while not measured.ended_at.keys() <= seen_at.keys():
            await asyncio.sleep(LOOK_S)
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    # A record may stand in the ledger before its caller has read the end of the answer.
    return sorted(max(0.0, seen_at[one] - ended_at) * 1e3 for one, ended_at in measured.ended_at.items())


async def _look(platform: BenchedPlatform, seen_at: dict[str, float]) -> None:
    """Note when each record is there for the first time, for ever."""
    while True:
        page_token = ""
        while True:
            listed = await platform.admin.billing.ListUsage(
                billing_pb2.ListUsageRequest(parent=platform.project, page_size=PAGE_SIZE, page_token=page_token)
            )
            now = monotonic()
            new = [one.record.request_id for one in listed.usage if one.record.request_id not in seen_at]
            seen_at.update(dict.fromkeys(new, now))
            page_token = listed.next_page_token
            # Newest first, but not posted in that order: a page without anything new is where the known ones begin.
            if not new or not page_token:
                break
        await asyncio.sleep(LOOK_S)
