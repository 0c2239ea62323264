"""What telemetry costs inference: switched off beside taken out, and switched on beside switched off."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
from collections.abc import AsyncIterator, Mapping
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
# Pairs of turns in a run: what else the machine does changes slowly beside them.
PAIRS = 4
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
        times = self.process.cpu_times()
        return float(times.user + times.system)


async def measure(options: Options) -> list[Result]:
    """All three run at the same time and are called in turn."""
    off_percent: list[float] = []
    on_percent: list[float] = []
    off_us: list[float] = []
    pairs = options.count(PAIRS, 1)
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
            for pair in range(pairs):
                order = [("out", out), ("off", off), ("on", on)]
                for name, inference in order if pair % 2 else reversed(order):
                    turns[name].append(await inference.cpu_us_per_call(platform, options.seconds(1.0, 0.5)))
            medians = {name: statistics.median(taken) for name, taken in turns.items()}
            off_percent.append((medians["off"] / medians["out"] - 1) * 100)
            on_percent.append((medians["on"] / medians["off"] - 1) * 100)
            off_us.append(medians["off"])
    said = (
        f"processor time of inference a call, {CONCURRENCY} clients on {os.cpu_count()} cores, {pairs} turns each a run, "
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
