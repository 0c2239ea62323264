"""Benchmarks: stored as their origin says them, ranked and weighed when they are asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, time
from decimal import Decimal

from modelyard.catalog.v1 import benchmarks_pb2

from chassis.clock import Clock
from chassis.database import Database, UnitOfWork
from chassis.errors import InvalidArgument
from chassis.ids import new_uid
from chassis.rpc.idempotency import answered_before, remember_answer
from services.catalog.domain.benchmarks import QualityIndex, quality_index
from services.catalog.domain.errors import ModelNotFound
from services.catalog.domain.names import MODEL, VERSION, model_named
from services.catalog.sources.benchmarks import Benchmarks
from services.catalog.storage.queries import models as stored
from services.catalog.storage.queries.benchmarks import replace_of_origin
from services.catalog.storage.tables import DatasetRow, PerformanceRunRow, ScenarioRow, ScoreRow

PROTOCOL_WORDS = frozenset(
    {
        "trials",
        "requests_per_trial",
        "interval_s",
        "input_tokens",
        "output_tokens",
        "audio_milliseconds",
        "images",
        "concurrency",
        "failed",
    }
)
METRIC_WORDS = frozenset(
    {
        "latency_mean_s",
        "latency_p50_s",
        "latency_p90_s",
        "latency_p95_s",
        "latency_p99_s",
        "first_token_mean_s",
        "first_token_p50_s",
        "first_token_p99_s",
        "between_tokens_mean_s",
        "generated_tokens_per_s",
        "total_tokens_per_s",
        "audio_s_per_s",
        "images_per_s",
    }
)
_DECIMAL = re.compile(r"\d{1,9}(\.\d{1,9})?")
_WORDS_MAX = 200


async def put_benchmarks(uow: UnitOfWork, origin: str, said: Benchmarks) -> None:
    """Leave exactly the scores and runs that one origin says."""
    for scenario in said.scenarios:
        await uow.session.merge(ScenarioRow(**scenario.model_dump()))
    for dataset in said.datasets:
        await uow.session.merge(DatasetRow(**dataset.model_dump()))
    scores = [
        {
            **score.model_dump(exclude={"model", "shots", "date"}),
            "id": score.id,
            "origin": origin,
            "model": model_named(score.model),
            "shots": str(score.shots),
            "date": score.date.isoformat(),
        }
        for score in said.scores
    ]
    await replace_of_origin(uow, ScoreRow, origin, scores)
    runs = [
        {
            "id": run.id,
            "origin": origin,
            "project_uid": "",
            "model": model_named(run.model),
            "model_version": f"{model_named(run.model)}/versions/{run.version}",
            "instance_type": run.instance_type,
            "deployment": "",
            "protocol": run.protocol,
            "metrics": run.metrics,
            "host": run.host,
            "run_time": datetime.combine(run.date, time(), UTC),
        }
        for run in said.runs
    ]
    await replace_of_origin(uow, PerformanceRunRow, origin, runs)


async def create_performance_run(
    database: Database,
    clock: Clock,
    principal: str,
    project_uid: str,
    request: benchmarks_pb2.CreatePerformanceRunRequest,
) -> PerformanceRunRow:
    """Store a measurement of a project's deployment; its members see it.

    Raises:
        InvalidArgument: a word or a number that no measurement has.
        ModelNotFound: no such version.
    """
    run = request.performance_run
    _check_words("protocol", run.protocol, PROTOCOL_WORDS)
    _check_words("metrics", run.metrics, METRIC_WORDS)
    for word, value in run.metrics.items():
        if not _DECIMAL.fullmatch(value):
            raise InvalidArgument(
                f"metrics.{word} is {value[:40]!r}; decimals of at most 9 places are", field="metrics"
            )
    if len(run.host) > _WORDS_MAX or not run.host.isprintable():
        raise InvalidArgument(
            f"host has {len(run.host)} characters; {_WORDS_MAX} on one line are allowed", field="host"
        )
    ids = VERSION.parse(run.model_version, "performance_run.model_version")
    async with database.unit_of_work() as uow:
        before = await answered_before(uow, database, principal, request, benchmarks_pb2.PerformanceRun)
        if before is not None:
            found = await uow.session.get(PerformanceRunRow, before.id)
            if found is not None:
                return found
        if await stored.version(uow.session, run.model_version) is None:
            raise ModelNotFound(f"version {run.model_version!r} does not exist", field="model_version")
        row = PerformanceRunRow(
            id=new_uid(),
            origin="measured",
            project_uid=project_uid,
            model=MODEL.format(publisher=ids["publisher"], model=ids["model"]),
            model_version=run.model_version,
            instance_type=run.instance_type,
            deployment=run.deployment,
            protocol=dict(run.protocol),
            metrics=dict(run.metrics),
            host=run.host,
            run_time=run.run_time.ToDatetime(UTC) if run.HasField("run_time") else clock.now(),
        )
        uow.session.add(row)
        await remember_answer(uow, database, clock, principal, request, benchmarks_pb2.PerformanceRun(id=row.id))
    return row


def best_scores(scores: Iterable[ScoreRow], datasets: Mapping[str, DatasetRow]) -> dict[tuple[str, str], ScoreRow]:
    """A model's best result on each dataset, by (model, dataset)."""
    best: dict[tuple[str, str], ScoreRow] = {}
    for score in scores:
        key = (score.model, score.dataset)
        if key not in best or _rank(score, datasets) > _rank(best[key], datasets):
            best[key] = score
    return best


def ranked(scores: Iterable[ScoreRow], datasets: Mapping[str, DatasetRow]) -> list[ScoreRow]:
    """Best first; equal results by the model's name."""
    by_name = sorted(scores, key=lambda score: score.model)
    return sorted(by_name, key=lambda score: _rank(score, datasets), reverse=True)


def index_of(scores: Sequence[ScoreRow], datasets: Mapping[str, DatasetRow]) -> QualityIndex:
    """The quality index of one model from its best results."""
    return quality_index({score.dataset: Decimal(score.value) / datasets[score.dataset].value_max for score in scores})


def _rank(score: ScoreRow, datasets: Mapping[str, DatasetRow]) -> Decimal:
    value = Decimal(score.value)
    return value if datasets[score.dataset].higher_is_better else -value


def _check_words(field: str, given: Iterable[str], known: frozenset[str]) -> None:
    if unknown := sorted(set(given) - known):
        raise InvalidArgument(f"{field} has {unknown[0][:40]!r}; {', '.join(sorted(known))} are known", field=field)
