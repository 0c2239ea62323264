"""The catalog with a million models: taking them in, finding them, and what that holds in memory."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter
from typing import Any

import psutil
from modelyard.catalog.v1 import catalog_pb2, imports_pb2, search_pb2
from modelyard_client import Modelyard

from bench.hub.assets import asset_of
from bench.hub.models import hub_models
from bench.hub.questions import MISSPELT, RARE, Question, facet_requests, questions
from bench.options import Options
from bench.postgres import running_postgres
from bench.results import Mark, Result, of_runs
from embedded.platform import Platform, running_platform

MODELS = 1_000_000
# As `modelyard catalog import` sends them.
ASSETS_PER_CALL, CALLS_AT_ONCE = 1_000, 2
SEARCHABLE_S_MAX = 1800.0
PAGE_SIZE, DEEP_PAGE = 50, 10_000
GETS, GETS_AT_ONCE = 4_000, 16
# After so much quiet the process holds what it keeps.
REST_S = 5.0


@dataclass(frozen=True)
class _Hub:
    """Models as a file of assets, a line each, and some of them to look for."""

    file: Path
    count: int
    targets: list[str]
    unique: list[bool]


async def measure(options: Options) -> list[Result]:
    """On SQLite, as `modelyard up` runs it."""
    hub = _write_hub(options)
    folder = options.new_folder("catalog-home")
    async with _platform(folder) as (platform, admin):
        process = _process(platform)
        imported_s, peak_mb = await _import(admin, hub, process)
        searchable_s = await _until_searchable(admin, hub.count)
        asked = questions(hub.targets, hub.unique)
        await _latencies_ms(admin.search.SearchModels, [one.request for one in asked[::10]])
        results = [
            _import_result("catalog_import_models_per_s", hub, imported_s, "SQLite"),
            Result(
                "catalog_searchable_s",
                round(searchable_s, 1),
                "s",
                f"from the last answer of the import until search holds all {hub.count:,} models; 1 run",
            ),
            *await _search(admin, asked, options),
            await _facets(admin, options),
            await _deep_page(admin, hub, options),
            await _gets(admin, hub, options),
        ]
        await asyncio.sleep(REST_S)
        results.append(
            Result(
                "catalog_pss_mb",
                round(process.memory_full_info().pss / 1e6, 1),
                "MB",
                f"PSS of the catalog with {hub.count:,} models after all of the above, the index's mapped files included; "
                f"at most {peak_mb:.0f} while it imported",
                Mark(at_most=500),
            )
        )
    return results


async def measure_postgresql(options: Options) -> list[Result]:
    """The import alone, on PostgreSQL."""
    hub = _write_hub(options)
    async with (
        running_postgres() as url,
        _platform(options.new_folder("catalog-postgresql-home"), {"MODELYARD_CATALOG_DATABASE_URL": url}) as (
            platform,
            admin,
        ),
    ):
        imported_s, _ = await _import(admin, hub, _process(platform))
    return [_import_result("catalog_import_models_per_s_postgresql", hub, imported_s, "PostgreSQL on the same machine")]


def _import_result(name: str, hub: _Hub, imported_s: float, database: str) -> Result:
    return Result(
        name,
        float(f"{hub.count / imported_s:.3g}"),
        "models/s",
        f"{hub.count:,} assets of {hub.file.stat().st_size / hub.count / 1e3:.1f} KB through ImportAssets into {database}, "
        f"{ASSETS_PER_CALL} a call, {CALLS_AT_ONCE} calls at once, while the index and the outbox follow; "
        f"{os.cpu_count()} cores with the sender; 1 run",
        Mark(at_least=2_000),
    )


def _write_hub(options: Options) -> _Hub:
    """Made before the clock starts."""
    count = options.count(MODELS, 4_000)
    file = options.folder / "assets.jsonl"
    wanted = set(random.Random(7).sample(range(count), RARE + MISSPELT))  # noqa: S311 - load, not a secret
    targets: list[str] = []
    called: dict[int, int] = {}
    with file.open("wb") as out:
        for number, record in enumerate(hub_models(count)):
            out.write(asset_of(record) + b"\n")
            key = hash(record.model.lower())
            called[key] = called.get(key, 0) + 1
            if number in wanted:
                targets.append(f"publishers/{record.publisher}/models/{record.model}")
    unique = [called[hash(name.rpartition("/")[2].lower())] == 1 for name in targets]
    return _Hub(file, count, targets, unique)


@asynccontextmanager
async def _platform(
    folder: Path, environment: dict[str, str] | None = None
) -> AsyncIterator[tuple[Platform, Modelyard]]:
    with (folder / "platform.log").open("a") as log:

        def keep(part: str, line: str) -> None:
            log.write(f"{part}: {line}\n")

        async with (
            running_platform(folder / "home", keep, {**os.environ, **(environment or {})}) as platform,
            Modelyard.from_file(platform.home.addresses) as admin,
        ):
            yield platform, admin


def _process(platform: Platform) -> psutil.Process:
    running = platform.children["catalog"].process
    assert running is not None  # noqa: S101 - the platform is ready
    return psutil.Process(running.pid)


async def _import(admin: Modelyard, hub: _Hub, process: psutil.Process) -> tuple[float, float]:
    """Seconds until the last call is answered, and the most memory seen meanwhile, MB."""
    peak_mb = 0.0

    async def watch() -> None:
        nonlocal peak_mb
        while True:
            peak_mb = max(peak_mb, process.memory_full_info().pss / 1e6)
            await asyncio.sleep(2.0)

    watching = asyncio.create_task(watch())
    try:
        with hub.file.open("rb") as file:
            calls = _calls(file)
            began_at = monotonic()
            await asyncio.gather(*(_send(admin, calls) for _ in range(CALLS_AT_ONCE)))
            return monotonic() - began_at, peak_mb
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def _calls(lines: Iterator[bytes]) -> Iterator[imports_pb2.ImportAssetsRequest]:
    request = imports_pb2.ImportAssetsRequest()
    for number, line in enumerate(lines, start=1):
        request.assets.add(path=f"line {number}", document=line)
        if len(request.assets) == ASSETS_PER_CALL:
            yield request
            request = imports_pb2.ImportAssetsRequest()
    if request.assets:
        yield request


async def _send(admin: Modelyard, calls: Iterator[imports_pb2.ImportAssetsRequest]) -> None:
    for request in calls:
        answer = await admin.imports.ImportAssets(request)
        if answer.failed or answer.imported != len(request.assets):
            raise ImportIncomplete(f"{answer.imported} of {len(request.assets)} were taken: {answer.failed[:3]}")


class ImportIncomplete(Exception):
    """A model was not taken; the numbers would mean nothing."""


async def _until_searchable(admin: Modelyard, count: int) -> float:
    began_at = monotonic()
    async with asyncio.timeout(SEARCHABLE_S_MAX):
        while True:
            answer = await admin.search.SearchModels(search_pb2.SearchModelsRequest(page_size=1))
            if answer.total_count >= count and not answer.pending_changes:
                return monotonic() - began_at
            await asyncio.sleep(0.5)


async def _search(admin: Modelyard, asked: list[Question], options: Options) -> list[Result]:
    p99_ms: list[float] = []
    by_kind: dict[str, list[float]] = {}
    found: dict[str, list[bool]] = {"rare": [], "misspelt": []}
    for _ in range(options.runs):
        latencies: list[float] = []
        for one in asked:
            began_at = perf_counter()
            answer = await admin.search.SearchModels(one.request)
            latencies.append((perf_counter() - began_at) * 1e3)
            by_kind.setdefault(one.kind, []).append(latencies[-1])
            if one.wanted:
                found[one.kind].append(one.wanted in [result.model.name for result in answer.results[:5]])
        p99_ms.append(_percentile(latencies, 0.99))
    kinds = ", ".join(
        f"{kind} {median(values):.3g} and {_percentile(values, 0.99):.3g}" for kind, values in by_kind.items()
    )
    return [
        of_runs(
            "catalog_search_p99_ms",
            p99_ms,
            "ms",
            f"{len(asked)} fixed queries one after another over gRPC, 20 models each with where the words stand; "
            f"p50 and p99 by kind: {kinds}",
            Mark(at_most=50),
        ),
        _recall("catalog_search_recall5_exact", found["rare"], 0.99, "whole names, half of them with the publisher"),
        _recall("catalog_search_recall5_typo", found["misspelt"], 0.95, "the same with 1 or 2 letters wrong"),
    ]


def _recall(name: str, found: list[bool], at_least: float, how: str) -> Result:
    return Result(
        name,
        round(sum(found) / len(found), 4),
        "ratio",
        f"the intended model is among the first five of {len(found):,} queries: {how}",
        Mark(at_least=at_least),
    )


async def _facets(admin: Modelyard, options: Options) -> Result:
    asked = facet_requests()
    p99_ms = [_percentile(await _latencies_ms(admin.search.SearchModels, asked), 0.99) for _ in range(options.runs)]
    return of_runs(
        "catalog_facets_p99_ms",
        p99_ms,
        "ms",
        f"{len(asked)} searches that count {len(asked[0].facets)} facets each, of all models, of common words, with filters",
        Mark(at_most=200),
    )


async def _deep_page(admin: Modelyard, hub: _Hub, options: Options) -> Result:
    """Page 10,000 is where 499,950 models have been given, however large the pages were."""
    skipped = min((DEEP_PAGE - 1) * PAGE_SIZE, hub.count // 2 // PAGE_SIZE * PAGE_SIZE)
    token = ""
    for start in range(0, skipped, 1000):
        size = min(1000, skipped - start)
        request = catalog_pb2.ListModelsRequest(parent="publishers/-", page_size=size, page_token=token)
        token = (await admin.catalog.ListModels(request)).next_page_token
    first = catalog_pb2.ListModelsRequest(parent="publishers/-", page_size=PAGE_SIZE)
    deep = catalog_pb2.ListModelsRequest(parent="publishers/-", page_size=PAGE_SIZE, page_token=token)
    ratios = []
    for _ in range(options.runs):
        pairs = [await _latencies_ms(admin.catalog.ListModels, [first, deep]) for _ in range(50)]
        ratios.append(median(pair[1] for pair in pairs) / median(pair[0] for pair in pairs))
    return of_runs(
        "catalog_deep_page_ratio",
        ratios,
        "ratio",
        f"ListModels of {PAGE_SIZE}: page {skipped // PAGE_SIZE + 1:,} over page 1, medians of 50 in turn",
        Mark(at_most=1.5),
    )


async def _gets(admin: Modelyard, hub: _Hub, options: Options) -> Result:
    p99_ms = []
    for _ in range(options.runs):
        names = iter([hub.targets[number % len(hub.targets)] for number in range(options.count(GETS, 400))])
        latencies: list[float] = []

        async def get(names: Iterator[str] = names, latencies: list[float] = latencies) -> None:
            for name in names:
                latencies += await _latencies_ms(admin.catalog.GetModel, [catalog_pb2.GetModelRequest(name=name)])

        await asyncio.gather(*(get() for _ in range(GETS_AT_ONCE)))
        p99_ms.append(_percentile(latencies, 0.99))
    return of_runs(
        "catalog_get_p99_ms_c16",
        p99_ms,
        "ms",
        f"GetModel with card, {GETS_AT_ONCE} at once, {options.count(GETS, 400):,} a run, one client process",
        Mark(at_most=30),
    )


async def _latencies_ms(method: Callable[[Any], Awaitable[Any]], requests: list[Any]) -> list[float]:
    taken = []
    for request in requests:
        began_at = perf_counter()
        await method(request)
        taken.append((perf_counter() - began_at) * 1e3)
    return taken


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
