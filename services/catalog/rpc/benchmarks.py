"""BenchmarkService."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from modelyard.catalog.v1 import benchmarks_pb2, benchmarks_pb2_grpc, catalog_pb2

from chassis.access import current_caller
from chassis.clock import Clock, us_from_time
from chassis.database import Database
from chassis.errors import InvalidArgument, NotFound
from chassis.paging import page_size, page_token_decode, page_token_encode, split_page
from chassis.timestamps import timestamp
from services.catalog.domain.benchmarks import QUALITY_DATASETS, QualityIndex, TradeOff, pareto_front
from services.catalog.domain.errors import ModelNotFound
from services.catalog.domain.names import MODEL
from services.catalog.rpc.convert import hardware_to_proto, model_to_proto
from services.catalog.rpc.neighbours import Neighbours
from services.catalog.storage.queries import benchmarks as queries
from services.catalog.storage.queries import models as stored
from services.catalog.storage.queries.pages import page_by_key
from services.catalog.storage.tables import DatasetRow, PerformanceRunRow, ScenarioRow, ScoreRow, VersionRow
from services.catalog.usecases.benchmarks import best_scores, create_performance_run, index_of, ranked

Context = Any
TOP_DEFAULT, TOP_MAX = 3, 100
COMPARED_MAX = 10
POINTS_MAX = 1000
RUNS_SHOWN = 10
QUALITY_INDEX = "quality-index"
# Newest first: later than every run.
BEFORE_ALL_RUNS = ((1 << 63) - 1, "")


class BenchmarkServicer(benchmarks_pb2_grpc.BenchmarkServiceServicer):
    """Scores are ranked when they are asked for: there are thousands, not millions."""

    def __init__(self, database: Database, clock: Clock, neighbours: Neighbours) -> None:
        self._database = database
        self._clock = clock
        self._neighbours = neighbours

    async def ListScenarios(
        self, request: benchmarks_pb2.ListScenariosRequest, context: Context
    ) -> benchmarks_pb2.ListScenariosResponse:
        scope = "ListScenarios"
        (after,) = page_token_decode(request.page_token, scope, ("",))
        limit = page_size(request.page_size)
        async with self._database.reader() as session:
            found = await page_by_key(session, ScenarioRow, "id", after, limit + 1)
            datasets = await queries.datasets(session)
        rows, more = split_page(found, limit)
        return benchmarks_pb2.ListScenariosResponse(
            scenarios=[_scenario(row, datasets) for row in rows],
            next_page_token=page_token_encode(scope, [rows[-1].id]) if more else "",
        )

    async def ListScores(
        self, request: benchmarks_pb2.ListScoresRequest, context: Context
    ) -> benchmarks_pb2.ListScoresResponse:
        MODEL.parse(request.parent, "parent")
        scope = f"ListScores/{request.parent}"
        after = page_token_decode(request.page_token, scope, ("", ""))
        limit = page_size(request.page_size)
        async with self._database.reader() as session:
            found = await queries.scores_page(session, request.parent, (after[0], after[1]), limit + 1)
        rows, more = split_page(found, limit)
        return benchmarks_pb2.ListScoresResponse(
            scores=[_score(row) for row in rows],
            next_page_token=page_token_encode(scope, [rows[-1].dataset, rows[-1].id]) if more else "",
        )

    async def GetLeaderboard(
        self, request: benchmarks_pb2.GetLeaderboardRequest, context: Context
    ) -> benchmarks_pb2.Leaderboard:
        if not 0 <= request.top <= TOP_MAX:
            raise InvalidArgument(f"top is {request.top}; 0 to {TOP_MAX} are allowed", field="top")
        async with self._database.reader() as session:
            scenario = await queries.scenario(session, request.scenario)
            if scenario is None:
                raise NotFound(
                    f"scenario {request.scenario[:64]!r} does not exist; `modelyard leaderboard` lists those that do"
                )
            datasets = {row.id: row for row in await queries.datasets(session, scenario.id)}
            scores = await queries.scores_on(session, list(datasets))
        best = ranked(best_scores(scores, datasets).values(), datasets)
        boards = {dataset: [score for score in best if score.dataset == dataset] for dataset in datasets}
        return benchmarks_pb2.Leaderboard(
            scenario=_scenario(scenario, datasets.values()),
            boards=[
                benchmarks_pb2.DatasetBoard(
                    dataset=dataset, scores=[_score(row) for row in board[: request.top or TOP_DEFAULT]]
                )
                for dataset, board in boards.items()
                if board
            ],
        )

    async def CompareModels(
        self, request: benchmarks_pb2.CompareModelsRequest, context: Context
    ) -> benchmarks_pb2.CompareModelsResponse:
        names = list(request.names)
        if not 1 <= len(names) <= COMPARED_MAX or len(set(names)) != len(names):
            raise InvalidArgument(
                f"names has {len(names)} models, {len(set(names))} of them different; 1 to {COMPARED_MAX} different ones "
                "are allowed",
                field="names",
            )
        for name in names:
            MODEL.parse(name, "names")
        async with self._database.reader() as session:
            found = {name: row for name, row in (await stored.models(session, names)).items() if not row.project_uid}
            if missing := [name for name in names if name not in found]:
                raise ModelNotFound(f"model {missing[0]!r} does not exist; `modelyard models` shows those that do")
            versions = await stored.versions(session, [row.latest_version for row in found.values()])
            datasets = {row.id: row for row in await queries.datasets(session)}
            scores = best_scores(await queries.scores_of_models(session, names), datasets)
            runs = await queries.shared_runs(session, names)
        prices = await self._neighbours.token_prices()
        now = self._clock.now()
        response = benchmarks_pb2.CompareModelsResponse()
        for name in names:
            row = found[name]
            version = versions.get(row.latest_version)
            own = [score for (model, _), score in sorted(scores.items()) if model == name]
            price = prices.get(name)
            response.models.add(
                model=model_to_proto(row, version, now),
                scores=[_score(score) for score in own],
                quality_index=_index(index_of(own, datasets)),
                input_price=_decimal(price.input) if price else "",
                output_price=_decimal(price.output) if price else "",
                blended_price=_decimal(price.blended) if price else "",
                performance_runs=[_run(run) for run in runs if run.model == name][:RUNS_SHOWN],
                inference_hardware=_hardware(version) if version else None,
            )
        return response

    async def GetTradeOff(
        self, request: benchmarks_pb2.GetTradeOffRequest, context: Context
    ) -> benchmarks_pb2.TradeOffs:
        against: dict[str, Fraction] = {}
        if request.against == benchmarks_pb2.TRADE_OFF_AXIS_COST:
            prices = await self._neighbours.token_prices()
            against = {name: price.blended for name, price in prices.items() if price.blended is not None}
        elif request.against != benchmarks_pb2.TRADE_OFF_AXIS_THROUGHPUT:
            raise InvalidArgument("against is TRADE_OFF_AXIS_COST or TRADE_OFF_AXIS_THROUGHPUT", field="against")
        async with self._database.reader() as session:
            qualities = await self._qualities(session, request.quality)
            if request.against == benchmarks_pb2.TRADE_OFF_AXIS_THROUGHPUT:
                against = _throughput(await queries.shared_runs(session))
            both = sorted(qualities.keys() & against.keys())
            names = {name: row.display_name for name, row in (await stored.models(session, both)).items()}
        points = [TradeOff(name, qualities[name], against[name]) for name in both if name in names]
        front = pareto_front(points, smaller_is_better=request.against == benchmarks_pb2.TRADE_OFF_AXIS_COST)
        points.sort(key=lambda point: (-point.quality, point.model))
        return benchmarks_pb2.TradeOffs(
            points=[
                benchmarks_pb2.TradeOffPoint(
                    model=point.model,
                    display_name=names[point.model],
                    quality=_decimal(point.quality),
                    against=_decimal(point.against),
                    on_front=point.model in front,
                )
                for point in points[:POINTS_MAX]
            ],
            left_out=len(qualities) - len(both),
        )

    async def CreatePerformanceRun(
        self, request: benchmarks_pb2.CreatePerformanceRunRequest, context: Context
    ) -> benchmarks_pb2.PerformanceRun:
        caller = current_caller()
        return _run(
            await create_performance_run(self._database, self._clock, caller.principal, caller.project_uid, request)
        )

    async def ListPerformanceRuns(
        self, request: benchmarks_pb2.ListPerformanceRunsRequest, context: Context
    ) -> benchmarks_pb2.ListPerformanceRunsResponse:
        project_uid = current_caller().project_uid
        if request.model:
            MODEL.parse(request.model, "model")
        scope = f"ListPerformanceRuns/{project_uid}/{request.model}"
        after = page_token_decode(request.page_token, scope, BEFORE_ALL_RUNS)
        limit = page_size(request.page_size)
        async with self._database.reader() as session:
            found = await queries.runs_page(session, project_uid, request.model, (after[0], after[1]), limit + 1)
        rows, more = split_page(found, limit)
        last = rows[-1] if rows else None
        return benchmarks_pb2.ListPerformanceRunsResponse(
            performance_runs=[_run(row) for row in rows],
            next_page_token=page_token_encode(scope, [us_from_time(last.run_time), last.id]) if more and last else "",
        )

    async def _qualities(self, session: Any, quality: str) -> dict[str, Fraction]:
        """What each model has of one quality."""
        datasets = {row.id: row for row in await queries.datasets(session)}
        if quality != QUALITY_INDEX and quality not in datasets:
            raise InvalidArgument(
                f"quality is {quality[:64]!r}; {QUALITY_INDEX!r} or the id of a dataset is, see `modelyard leaderboard`",
                field="quality",
            )
        wanted = QUALITY_DATASETS if quality == QUALITY_INDEX else (quality,)
        best = best_scores(await queries.scores_on(session, wanted), datasets)
        if quality != QUALITY_INDEX:
            sign = 1 if datasets[quality].higher_is_better else -1
            return {model: sign * Fraction(score.value) for (model, _), score in best.items()}
        by_model: dict[str, list[ScoreRow]] = {}
        for (model, _), score in best.items():
            by_model.setdefault(model, []).append(score)
        indices = {model: index_of(scores, datasets).value for model, scores in by_model.items()}
        return {model: value for model, value in indices.items() if value is not None}


def _hardware(version: VersionRow) -> catalog_pb2.Hardware | None:
    """What its publisher states, or what it takes here."""
    stated: dict[str, Any] | None = version.facts.get("inference_hardware")
    if stated is None and version.serving:
        stated = {"vcpus": version.serving["min_vcpus"], "memory_bytes": version.serving["min_memory_bytes"]}
    return hardware_to_proto(stated)


def _throughput(runs: Iterable[PerformanceRunRow]) -> dict[str, Fraction]:
    """Generated tokens per second of each model's newest run."""
    newest: dict[str, Fraction] = {}
    for run in runs:
        if "generated_tokens_per_s" in run.metrics:
            newest.setdefault(run.model, Fraction(run.metrics["generated_tokens_per_s"]))
    return newest


def _scenario(row: ScenarioRow, datasets: Iterable[DatasetRow]) -> benchmarks_pb2.Scenario:
    return benchmarks_pb2.Scenario(
        id=row.id,
        display_name=row.display_name,
        description=row.description,
        datasets=[
            benchmarks_pb2.Dataset(
                id=one.id,
                display_name=one.display_name,
                value_max=one.value_max,
                higher_is_better=one.higher_is_better,
            )
            for one in datasets
            if one.scenario == row.id
        ],
    )


def _score(row: ScoreRow) -> benchmarks_pb2.Score:
    return benchmarks_pb2.Score(
        model=row.model,
        dataset=row.dataset,
        metric=row.metric,
        value=row.value,
        shots=row.shots,
        date=row.date,
        date_kind=row.date_kind,
        source=row.source,
        detail=row.detail,
    )


def _run(row: PerformanceRunRow) -> benchmarks_pb2.PerformanceRun:
    return benchmarks_pb2.PerformanceRun(
        id=row.id,
        model_version=row.model_version,
        instance_type=row.instance_type,
        deployment=row.deployment,
        run_time=timestamp(row.run_time),
        protocol=row.protocol,
        metrics=row.metrics,
        host=row.host,
        shared=not row.project_uid,
    )


def _index(index: QualityIndex) -> benchmarks_pb2.QualityIndex:
    value = "" if index.value is None else f"{_rounded(index.value, 4):f}"
    return benchmarks_pb2.QualityIndex(value=value, missing=index.missing)


def _decimal(value: Fraction | None) -> str:
    """Shortest decimal with at most 9 places; empty for None."""
    if value is None:
        return ""
    text = f"{_rounded(value, 9):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _rounded(value: Fraction, places: int) -> Decimal:
    return (Decimal(value.numerator) / Decimal(value.denominator)).quantize(Decimal(1).scaleb(-places))
