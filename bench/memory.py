"""What inference, billing and the broker hold in memory while calls come and go."""

from __future__ import annotations

import os

from bench.engine import NOOP
from bench.load import Load, run_load
from bench.options import Options
from bench.platform import BenchedPlatform, benched_platform, model_of
from bench.results import Mark, Result

CALLS = 200_000
# Caches, pools and the allocator have their size by then.
WARM_CALLS = 40_000
CONCURRENCY = 64
GROWTH_MB_MAX = 10.0
_PARTS = ("inference", "billing", "nats")


async def measure(options: Options) -> list[Result]:
    """Looked at while nothing is under way: after each part of the calls billing has committed all of them."""
    part = options.count(WARM_CALLS, 2_000)
    calls = options.count(CALLS, 6_000)
    async with benched_platform(options.new_folder("memory")) as platform:
        load = Load(
            platform.addresses.inference,
            model_of(NOOP),
            platform.headers,
            concurrency=CONCURRENCY,
            calls=part,
        )
        held = [_held_mb(platform)]
        for _ in range(calls // part):
            await run_load(load)
            await platform.all_committed()
            held.append(_held_mb(platform))
    results: list[Result] = []
    for name in _PARTS:
        series = [one[name] for one in held]
        # The broker's memory is what it caches of its own files.
        mark = Mark(at_most=GROWTH_MB_MAX) if name != "nats" else None
        results.append(
            Result(
                f"{name}_memory_growth_mb",
                round(series[-1] - series[1], 1),
                "MB",
                f"PSS after {calls:,} calls less after {part:,}, {CONCURRENCY} clients on {os.cpu_count()} cores, 1 run; "
                f"at every {part:,} calls from 0: {', '.join(f'{value:.0f}' for value in series)}",
                mark,
            )
        )
    return results


def _held_mb(platform: BenchedPlatform) -> dict[str, float]:
    return {name: platform.process(name).memory_full_info().pss / 1e6 for name in _PARTS}
