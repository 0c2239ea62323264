"""`python -m bench [NAME…]`: measure, print a table, write bench/results.json."""

from __future__ import annotations

import argparse
import asyncio
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import psutil
from rich.console import Console

from bench import billing_ingest, catalog, cold, gateway, memory, start, telemetry_cost, visibility
from bench.options import Options
from bench.results import Result, result_table, write_results

RESULTS = Path(__file__).parent / "results.json"
FAMILIES: dict[str, Callable[[Options], Awaitable[list[Result]]]] = {
    "gateway": gateway.measure,
    "billing_ingest": billing_ingest.measure,
    "visibility": visibility.measure,
    "catalog": catalog.measure,
    "catalog_postgresql": catalog.measure_postgresql,
    "start": start.measure,
    "memory": memory.measure,
    "telemetry_cost": telemetry_cost.measure,
    "cold": cold.measure,
}
# How long to look at what else the machine does.
LOOK_S = 3.0
# One downloads everything there is; the other takes a million models in once more.
ASKED_FOR = {"cold", "catalog_postgresql"}


async def _measure(names: list[str], options: Options, console: Console) -> None:
    for name in names:
        began_at = time.monotonic()
        busy = f"other work took {psutil.cpu_percent(interval=LOOK_S):.0f} % of the processors before it"
        console.print(f"[bold]{name}[/]: {busy}", highlight=False)
        measured = [replace(one, note=f"{one.note}; {busy}") for one in await FAMILIES[name](options)]
        console.print(result_table(measured))
        console.print(f"[dim]{name} took {time.monotonic() - began_at:.0f} s[/]\n", highlight=False)
        if not options.quick:
            write_results(RESULTS, measured)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"any of {', '.join(FAMILIES)}; default: all but cold and catalog_postgresql",
    )
    parser.add_argument("--runs", type=int, default=None, help="of each measurement (default 5, quick 1)")
    parser.add_argument("--quick", action="store_true", help="see that everything works; writes no results")
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - set(FAMILIES)):
        parser.error(f"{unknown[0]!r} is no benchmark; there are {', '.join(FAMILIES)}")
    # A shell that starts this in the background has it ignored, and what is stopped by it would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    console = Console(width=None if Console().is_terminal else 200)
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as folder:
        names = given.names or [name for name in FAMILIES if name not in ASKED_FOR]
        runs = given.runs or (1 if given.quick else 5)
        options = Options(Path(folder), runs, given.quick)
        asyncio.run(_measure(names, options, console))


if __name__ == "__main__":
    main()
