"""What telemetry costs inference: switched off beside taken out, and switched on beside switched off."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import psutil

from bench.engine import NOOP
from bench.load import Load, run_load
from bench.options import Options
from bench.platform import BenchedPlatform, benched_platform, model_of
from bench.results import Mark, Result, of_runs

CONCURRENCY = 16
COST_PERCENT_MAX = 2.0
# Rounds in a run; in each all are called in turn, and what else the machine does changes slowly beside that.
ROUNDS = 8
READY_S_MAX = 30.0
_OFF = {"MODELYARD_INFERENCE_METRICS_ADDRESS": "", "MODELYARD_INFERENCE_OTLP_ENDPOINT": ""}
_ON = {"MODELYARD_INFERENCE_METRICS_ADDRESS": "127.0.0.1:0"}


@dataclass(frozen=True)
class _Inference:
    """One more inference process beside the platform's own."""

    address: str
    process: psutil.Process

    async def cpu_us_per_call(self, platform: BenchedPlatform, seconds: float) -> float:
        """Processor time of a call, which other work on the machine hardly changes, unlike calls a second."""
        load = Load(self.address, model_of(NOOP), platform.headers, CONCURRENCY, duration_s=seconds, warmup_s=0.0)
        before = self._cpu_s()
        measured = await run_load(load)
        return (self._cpu_s() - before) / measured.count * 1e6

    def _cpu_s(self) -> float:
        """Of all threads, to the nanosecond: the process' own clock ticks every 10 ms, 1 % of a turn."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


async def measure(options: Options) -> list[Result]:
    """All three run at the same time and are called in turn."""
    off_percent: list[float] = []
    on_percent: list[float] = []
    off_us: list[float] = []
    rounds = options.count(ROUNDS, 1)
    folder = options.new_folder("telemetry")
    async with benched_platform(folder / "platform") as platform, AsyncExitStack() as stack:
        out, off, on = [
            await stack.enter_async_context(_inference(platform, folder / name, module, changes))
            for name, module, changes in (
                ("out", "bench.uninstrumented", _OFF),
                ("off", "services.inference", _OFF),
                ("on", "services.inference", _ON),
            )
        ]
        for _ in range(options.runs):
            turns: dict[str, list[float]] = {"out": [], "off": [], "on": []}
            for number in range(rounds):
                order = [("out", out), ("off", off), ("on", on)]
                for name, inference in order if number % 2 else reversed(order):
                    turns[name].append(await inference.cpu_us_per_call(platform, options.seconds(1.0, 0.5)))
            off_percent.append(_more_percent(turns["off"], turns["out"]))
            on_percent.append(_more_percent(turns["on"], turns["off"]))
            off_us += turns["off"]
    said = (
        f"processor time of inference a call, {CONCURRENCY} clients on {os.cpu_count()} cores, {rounds} turns each a run, "
        f"{statistics.median(off_us):,.0f} µs with telemetry off"
    )
    return [
        of_runs(
            "telemetry_off_cost_percent",
            off_percent,
            "%",
            f"switched off by empty settings, over the same code without spans and instruments; {said}",
            Mark(at_most=COST_PERCENT_MAX),
        ),
        of_runs("metrics_on_cost_percent", on_percent, "%", f"metrics on, traces off, over both off; {said}"),
    ]


def _more_percent(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over rounds: what one round has in common falls out."""
    return (statistics.median(one / other for one, other in zip(ours, theirs, strict=True)) - 1) * 100


@asynccontextmanager
async def _inference(
    platform: BenchedPlatform, folder: Path, module: str, changes: Mapping[str, str]
) -> AsyncIterator[_Inference]:
    """Another inference with a journal of its own, otherwise set as the platform's."""
    folder.mkdir()
    ready_file = folder / "ready.json"
    environment = {
        **platform.platform.children["inference"].environment,
        "MODELYARD_INFERENCE_DATA_DIR": str(folder),
        "MODELYARD_INFERENCE_READY_FILE": str(ready_file),
        "MODELYARD_INFERENCE_GRPC_ADDRESS": "127.0.0.1:0",
        "MODELYARD_INFERENCE_REST_ADDRESS": "127.0.0.1:0",
        **changes,
    }
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module), env=environment, stdout=log, stderr=log
        )
    try:
        give_up_at = monotonic() + READY_S_MAX
        while not ready_file.exists():
            if process.returncode is not None or monotonic() > give_up_at:
                raise TimeoutError(f"{module} does not answer: {(folder / 'log').read_text()[-2000:]}")
            await asyncio.sleep(0.05)
        yield _Inference(json.loads(ready_file.read_text())["grpc"], psutil.Process(process.pid))
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
