"""What a call costs on its way through us, beside the same call straight to the engine and through a bare proxy."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import perf_counter

from bench.engine import NOOP, TOKENS, Engine
from bench.load import Load, Measured, run_load
from bench.options import Options
from bench.platform import BenchedPlatform, benched_platform, model_of
from bench.results import Mark, Result, of_runs

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
_PROCESSES = "1 inference, 1 Triton, 1 tritonclient process on {cores} cores"


async def measure(options: Options) -> list[Result]:
    """Interleaved: each run calls every way in turn, so that all of them see the same machine."""
    measured: dict[tuple[str, int], list[Measured]] = defaultdict(list)
    fsync_ms: list[float] = []
    async with (
        benched_platform(options.new_folder("gateway")) as platform,
        _bare_proxy(platform.engine) as proxy,
    ):
        seconds = options.seconds(2.0, 1.0)
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
        for _ in range(options.runs):
            for concurrency in CONCURRENCIES:
                for way, load in ways.items():
                    measured[way, concurrency].append(await _one(platform, way, load, concurrency))
            fsync_ms.append(_fsync_p50_ms(options.folder))
            for way, load in streams.items():
                streamed = await _one(platform, way, load, STREAM_CONCURRENCY, STREAM_RESPONSES)
                measured[f"stream {way}", STREAM_CONCURRENCY].append(streamed)
    return [*_unary_results(measured, fsync_ms), *_stream_results(measured)]


async def _one(platform: BenchedPlatform, way: str, load: Load, concurrency: int, responses: int = 0) -> Measured:
    given = Load(**{**load.__dict__, "concurrency": concurrency, "responses": responses})
    await platform.all_committed()
    if way != "alone":
        return await run_load(given)
    with _suspended(platform):
        return await run_load(given)


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
async def _bare_proxy(engine: Engine) -> AsyncIterator[str]:
    """Its address."""
    ((header, value),) = engine.headers.items()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.proxy", engine.address, header, value), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None  # noqa: S101 - asked for above
    try:
        yield f"127.0.0.1:{int(await process.stdout.readline())}"
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


def _unary_results(measured: dict[tuple[str, int], list[Measured]], fsync_ms: list[float]) -> Iterator[Result]:
    processes = _PROCESSES.format(cores=os.cpu_count())
    fsync = of_runs("journal_fsync_p50_ms", fsync_ms, "ms", f"{_FSYNCS} appends of {_FRAME_BYTES} bytes, idle disk")
    for concurrency in CONCURRENCIES:
        direct, through, alone, proxy = (measured[way, concurrency] for way in ("direct", "through", "alone", "proxy"))
        said = (
            f"{processes}, {concurrency} clients, {sum(one.count for one in through):,} requests; "
            f"{_per_s(through):,.0f}/s of {_per_s(direct):,.0f}/s"
        )
        mark = Mark(at_least=KEPT_MIN[concurrency]) if concurrency in KEPT_MIN else None
        yield of_runs(
            f"triton_noop_kept_ratio_c{concurrency}",
            _ratios(through, direct),
            "ratio",
            f"{said}; access, limits, journal, metrics and billing on",
            mark,
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
    yield fsync
    added = [
        through.latency_ms(0.5) - direct.latency_ms(0.5)
        for through, direct in zip(measured["through", 1], measured["direct", 1], strict=True)
    ]
    bare = [
        proxy.latency_ms(0.5) - direct.latency_ms(0.5)
        for proxy, direct in zip(measured["proxy", 1], measured["direct", 1], strict=True)
    ]
    yield of_runs(
        "gateway_added_latency_p50_ms_c1",
        added,
        "ms",
        f"{processes}, 1 client; the bare proxy adds {statistics.median(bare):.2f} ms",
        Mark(at_most=round(ADDED_MS_MAX + fsync.value, 3), why=f"{ADDED_MS_MAX:g} + one fsync"),
    )


def _stream_results(measured: dict[tuple[str, int], list[Measured]]) -> Iterator[Result]:
    direct, through = (measured[f"stream {way}", STREAM_CONCURRENCY] for way in ("direct", "through"))
    yield of_runs(
        "stream_kept_ratio",
        _ratios(through, direct),
        "ratio",
        f"{STREAM_CONCURRENCY} streams of {STREAM_RESPONSES} responses each; "
        f"{_per_s(through):,.0f} responses/s of {_per_s(direct):,.0f}/s",
    )


def _ratios(ours: list[Measured], theirs: list[Measured]) -> list[float]:
    return [one.per_s / other.per_s for one, other in zip(ours, theirs, strict=True)]


def _per_s(measured: list[Measured]) -> float:
    return statistics.median(one.per_s for one in measured)
