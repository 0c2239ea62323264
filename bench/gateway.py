"""What a call costs on its way through us, beside the same call straight to the engine and through a bare proxy."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import psutil

from bench.engine import NOOP, TOKENS, Engine
from bench.load import Load, Measured, run_load
from bench.options import Options
from bench.platform import BenchedPlatform, benched_platform, model_of
from bench.results import Mark, Result, of_runs
from embedded.parent_death import tied_command

CONCURRENCIES = (1, 16, 64)
STREAM_CONCURRENCY = 16
STREAM_RESPONSES = 64
ADDED_MS_MAX = 2.0
KEPT_MIN = {16: 0.4, 64: 0.5}
# What an opened or a settled call takes in the journal.
_FRAME_BYTES = 450
_FSYNCS = 200
# They need no time of the data path itself.
_BESIDE = ("billing", "catalog", "deploy")
# Whose processor time a call takes; what the bare proxy takes is the limit.
_PARTS = ("inference", "billing", "nats")
_PROCESSES = "1 inference, 1 Triton, 1 tritonclient process on {cores} cores"


@dataclass(frozen=True)
class _Turn:
    """One load on one way, and the processor time that each part spent on a call meanwhile, microseconds."""

    measured: Measured
    cpu_us: dict[str, float]


_Turns = dict[tuple[str, int], list[_Turn]]


async def measure(options: Options) -> list[Result]:
    """Interleaved: each run calls every way in turn, so that all of them see the same machine."""
    turns: _Turns = defaultdict(list)
    fsync_ms: list[float] = []
    async with (
        benched_platform(options.new_folder("gateway")) as platform,
        _bare_proxy(platform.engine) as (proxy, proxy_process),
    ):
        seconds = options.seconds(1.5, 1.0)
        engine = platform.engine
        ways = {
            "direct": Load(engine.address, NOOP, engine.headers, duration_s=seconds),
            "through": Load(platform.addresses.inference, model_of(NOOP), platform.headers, duration_s=seconds),
            "alone": Load(platform.addresses.inference, model_of(NOOP), platform.headers, duration_s=seconds),
            "proxy": Load(proxy, NOOP, {}, duration_s=seconds),
        }
        streams = {
            "direct": Load(engine.address, TOKENS, engine.headers, duration_s=seconds),
            "through": Load(platform.addresses.inference, model_of(TOKENS), platform.headers, duration_s=seconds),
        }
        parts = {part: platform.process(part) for part in _PARTS} | {"proxy": proxy_process}
        for _ in range(options.runs):
            for concurrency in CONCURRENCIES:
                for way, load in ways.items():
                    turns[way, concurrency].append(await _turn(platform, parts, way, load, concurrency))
            fsync_ms.append(_fsync_p50_ms(options.folder))
            for way, load in streams.items():
                streamed = await _turn(platform, parts, way, load, STREAM_CONCURRENCY, STREAM_RESPONSES)
                turns[f"stream {way}", STREAM_CONCURRENCY].append(streamed)
    return [*_unary_results(turns, fsync_ms), *_stream_results(turns)]


async def _turn(
    platform: BenchedPlatform,
    parts: Mapping[str, psutil.Process],
    way: str,
    load: Load,
    concurrency: int,
    responses: int = 0,
) -> _Turn:
    await platform.all_committed()
    before = {part: _cpu_s(process) for part, process in parts.items()}
    with _suspended(platform) if way == "alone" else nullcontext():
        measured = await run_load(replace(load, concurrency=concurrency, responses=responses))
    spent = {part: (_cpu_s(process) - before[part]) / measured.calls * 1e6 for part, process in parts.items()}
    return _Turn(measured, spent)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def _suspended(platform: BenchedPlatform) -> Iterator[None]:
    """Without the services that are no part of the data path, as where they have machines of their own."""
    processes = [platform.process(part) for part in _BESIDE]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def _bare_proxy(engine: Engine) -> AsyncIterator[tuple[str, psutil.Process]]:
    """Its address, and its process."""
    ((header, value),) = engine.headers.items()
    process = await asyncio.create_subprocess_exec(
        *tied_command([sys.executable, "-m", "bench.proxy", engine.address, header, value]),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None  # noqa: S101 - asked for above
    try:
        yield f"127.0.0.1:{int(await process.stdout.readline())}", psutil.Process(process.pid)
    finally:
        process.terminate()
        await process.wait()


def _fsync_p50_ms(folder: Path) -> float:
    """One append with fdatasync, as the journal does it, on the same disk and with nothing else under way."""
    path = folder / "fsync"
    taken: list[float] = []
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        for _ in range(_FSYNCS):
            began_at = perf_counter()
            os.write(descriptor, bytes(_FRAME_BYTES))
            os.fdatasync(descriptor)
            taken.append(perf_counter() - began_at)
    finally:
        os.close(descriptor)
        path.unlink()
    return statistics.median(taken) * 1e3


def _unary_results(turns: _Turns, fsync_ms: list[float]) -> Iterator[Result]:
    processes = _PROCESSES.format(cores=os.cpu_count())
    for concurrency in CONCURRENCIES:
        direct, through, alone, proxy = (turns[way, concurrency] for way in ("direct", "through", "alone", "proxy"))
        yield of_runs(
            f"triton_noop_kept_ratio_c{concurrency}",
            _ratios(through, direct),
            "ratio",
            f"{processes}, concurrency {concurrency}, {sum(one.measured.count for one in through):,} requests; "
            f"{_per_s(through):,.0f}/s of {_per_s(direct):,.0f}/s; access, limits, journal, metrics and billing on",
            Mark(at_least=KEPT_MIN[concurrency]) if concurrency in KEPT_MIN else None,
        )
        yield of_runs(
            f"triton_noop_kept_ratio_c{concurrency}_billing_elsewhere",
            _ratios(alone, direct),
            "ratio",
            f"the same with billing, catalog and deploy suspended; {_per_s(alone):,.0f}/s",
        )
        yield of_runs(
            f"bare_proxy_kept_ratio_c{concurrency}",
            _ratios(proxy, direct),
            "ratio",
            f"limit: a grpc.aio proxy that only forwards, same client and engine; {_per_s(proxy):,.0f}/s",
        )
        spent = {
            part: statistics.median(one.cpu_us[part] for one in (proxy if part == "proxy" else through))
            for part in ("proxy", *_PARTS)
        }
        yield of_runs(
            f"gateway_cpu_us_c{concurrency}",
            [sum(one.cpu_us[part] for part in _PARTS) for one in through],
            "µs",
            "processor time of a call: "
            + ", ".join(f"{part} {spent[part]:,.0f}" for part in _PARTS)
            + f"; the bare proxy takes {spent['proxy']:,.0f}",
        )
    fsync = of_runs("journal_fsync_p50_ms", fsync_ms, "ms", f"{_FSYNCS} appends of {_FRAME_BYTES} bytes, idle disk")
    yield fsync
    yield of_runs(
        "gateway_added_latency_p50_ms_c1",
        _added_ms(turns["through", 1], turns["direct", 1]),
        "ms",
        f"{processes}, concurrency 1; with billing elsewhere "
        f"{statistics.median(_added_ms(turns['alone', 1], turns['direct', 1])):.2f} ms, the bare proxy adds "
        f"{statistics.median(_added_ms(turns['proxy', 1], turns['direct', 1])):.2f} ms",
        Mark(at_most=round(ADDED_MS_MAX + fsync.value, 3), why=f"{ADDED_MS_MAX:g} + one fsync"),
    )


def _stream_results(turns: _Turns) -> Iterator[Result]:
    direct, through = (turns[f"stream {way}", STREAM_CONCURRENCY] for way in ("direct", "through"))
    yield of_runs(
        "stream_kept_ratio",
        _ratios(through, direct),
        "ratio",
        f"{_PROCESSES.format(cores=os.cpu_count())}, {STREAM_CONCURRENCY} streams of {STREAM_RESPONSES} responses each; "
        f"{_per_s(through):,.0f} responses/s of {_per_s(direct):,.0f}/s",
    )


def _ratios(ours: Sequence[_Turn], theirs: Sequence[_Turn]) -> list[float]:
    return [one.measured.per_s / other.measured.per_s for one, other in zip(ours, theirs, strict=True)]


def _added_ms(ours: Sequence[_Turn], theirs: Sequence[_Turn]) -> list[float]:
    pairs = zip(ours, theirs, strict=True)
    return [one.measured.latency_ms(0.5) - other.measured.latency_ms(0.5) for one, other in pairs]


def _per_s(turns: Sequence[_Turn]) -> float:
    return statistics.median(one.measured.per_s for one in turns)
