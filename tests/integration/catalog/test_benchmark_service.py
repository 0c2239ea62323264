"""BenchmarkService: leaderboards, comparisons, trade-offs, and runs that belong to a project."""

from __future__ import annotations

from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelyard.catalog.v1 import benchmarks_pb2

from chassis.access import Caller
from chassis.access.caller import CallerKind, set_current_caller
from chassis.errors import InvalidArgument, NotFound
from services.catalog.domain.benchmarks import QUALITY_DATASETS, TokenPrice
from services.catalog.domain.errors import ModelNotFound
from services.catalog.main import MIGRATIONS
from services.catalog.rpc.benchmarks import BenchmarkServicer
from services.catalog.storage.tables import CHASSIS
from services.catalog.usecases.sync_content import sync_content
from tests.clock import ManualClock
from tests.conftest import DatabaseFactory
from tests.integration.catalog.build import a_model, listed_only, write_content

CHEAP, DEAR, SLOW = (f"publishers/acme/models/{name}" for name in ("cheap", "dear", "slow"))
PRICES = {
    CHEAP: TokenPrice(Fraction(1), Fraction(1)),
    DEAR: TokenPrice(Fraction(4), Fraction(8)),
    SLOW: TokenPrice(Fraction(5), Fraction(9)),
}
# Each model's accuracies on the eight sets of the index.
ACCURACIES = {"cheap": ["0.4"] * 8, "dear": ["0.9"] * 8, "slow": ["0.5"] * 4}


class Prices:
    """What billing would answer; the real one is asked in the end-to-end test."""

    async def token_prices(self) -> dict[str, TokenPrice]:
        return PRICES


def benchmarks(folder: Path) -> Path:
    """Three models, one of them without enough scores for the index, and one measured."""
    write_content(folder, a_model("cheap"), listed_only("dear"), listed_only("slow"))
    for name in ("scores", "runs"):
        (folder / "benchmarks" / name).mkdir(parents=True)
    head = {
        "scenarios": [{"id": "all", "display_name": "All", "description": "Everything."}],
        "datasets": [
            {"id": name, "display_name": name, "scenario": "all", "value_max": 1, "higher_is_better": True}
            for name in QUALITY_DATASETS
        ],
    }
    scores: list[dict[str, Any]] = [
        {
            "model": f"acme/{model}",
            "dataset": dataset,
            "metric": "exact-match",
            "value": value,
            "shots": 0,
            "date": date(2026, 1, 1),
            "source": "https://example.com",
        }
        for model, values in ACCURACIES.items()
        for dataset, value in zip(QUALITY_DATASETS, values, strict=False)
    ]
    # Another effort, worse: the best one counts.
    scores.append({**scores[0], "value": "0.1", "detail": "low effort"})
    run = {
        "model": "acme/cheap",
        "version": "1",
        "instance_type": "local-1",
        "date": date(2026, 1, 2),
        "protocol": {"trials": 3},
        "metrics": {"generated_tokens_per_s": "21.5"},
        "host": "two cores",
    }
    (folder / "benchmarks" / "datasets.yaml").write_text(yaml.safe_dump(head))
    (folder / "benchmarks" / "scores" / "acme.yaml").write_text(yaml.safe_dump({"scores": scores}))
    (folder / "benchmarks" / "runs" / "acme.yaml").write_text(yaml.safe_dump({"runs": [run]}))
    return folder


@pytest.fixture
async def service(make_database: DatabaseFactory, tmp_path: Path) -> BenchmarkServicer:
    database = await make_database(CHASSIS, MIGRATIONS)
    content = benchmarks(tmp_path / "content")
    for _ in range(2):
        # Loading again leaves each score and run once.
        await sync_content(database, ManualClock(), content)
    return BenchmarkServicer(database, ManualClock(), Prices())  # type: ignore[arg-type]


def as_member(project: str) -> None:
    set_current_caller(Caller("user:ann", CallerKind.USER, project=project, project_uid=f"{project}-uid"))


async def test_a_leaderboard_ranks_the_best_of_each(service: BenchmarkServicer) -> None:
    """Each model once, with its best result, and no more models than asked for."""
    board = await service.GetLeaderboard(benchmarks_pb2.GetLeaderboardRequest(scenario="all", top=2), None)
    arena = next(one for one in board.boards if one.dataset == QUALITY_DATASETS[0])
    assert [(score.model, score.value) for score in arena.scores] == [(DEAR, "0.9"), (SLOW, "0.5")]
    with pytest.raises(NotFound):
        await service.GetLeaderboard(benchmarks_pb2.GetLeaderboardRequest(scenario="none"), None)


async def test_models_stand_side_by_side(service: BenchmarkServicer) -> None:
    """In the order asked for; an index only where there are enough sets, and which are missing."""
    answer = await service.CompareModels(benchmarks_pb2.CompareModelsRequest(names=[SLOW, CHEAP]), None)
    slow, cheap = answer.models
    assert (slow.quality_index.value, list(slow.quality_index.missing)) == ("", list(QUALITY_DATASETS[4:]))
    assert (cheap.quality_index.value, cheap.blended_price) == ("0.4000", "1")
    assert cheap.performance_runs[0].metrics["generated_tokens_per_s"] == "21.5"
    assert cheap.inference_hardware.vcpus == 1
    assert len(cheap.scores) == 8


@pytest.mark.parametrize("names", [[], [CHEAP, CHEAP], [CHEAP] * 11])
async def test_what_cannot_be_compared_is_refused(service: BenchmarkServicer, names: list[str]) -> None:
    """None, one twice, or too many."""
    with pytest.raises(InvalidArgument, match="names"):
        await service.CompareModels(benchmarks_pb2.CompareModelsRequest(names=names), None)


async def test_a_model_that_is_not_there_is_named(service: BenchmarkServicer) -> None:
    """Whichever of them."""
    with pytest.raises(ModelNotFound, match="nobody"):
        await service.CompareModels(
            benchmarks_pb2.CompareModelsRequest(names=[CHEAP, "publishers/acme/models/nobody"]), None
        )


async def test_quality_is_weighed_against_cost(service: BenchmarkServicer) -> None:
    """By the index: the model without one is no point. By a dataset: the one that costs more and is worse is off."""
    cost = benchmarks_pb2.TRADE_OFF_AXIS_COST
    by_index = await service.GetTradeOff(benchmarks_pb2.GetTradeOffRequest(quality="quality-index", against=cost), None)
    assert [(point.model, point.quality, point.against, point.on_front) for point in by_index.points] == [
        (DEAR, "0.9", "5", True),
        (CHEAP, "0.4", "1", True),
    ]
    by_set = await service.GetTradeOff(
        benchmarks_pb2.GetTradeOffRequest(quality=QUALITY_DATASETS[0], against=cost), None
    )
    assert {point.model: point.on_front for point in by_set.points} == {DEAR: True, SLOW: False, CHEAP: True}


async def test_quality_is_weighed_against_throughput(service: BenchmarkServicer) -> None:
    """Only what was measured is a point; the others are counted."""
    answer = await service.GetTradeOff(
        benchmarks_pb2.GetTradeOffRequest(quality="quality-index", against=benchmarks_pb2.TRADE_OFF_AXIS_THROUGHPUT),
        None,
    )
    assert [(point.model, point.against) for point in answer.points] == [(CHEAP, "21.5")]
    assert answer.left_out == 1


async def test_a_run_belongs_to_the_project_that_measured_it(service: BenchmarkServicer) -> None:
    """Its members see it beside what ships; others do not, and comparisons show only what everybody sees."""
    request = benchmarks_pb2.CreatePerformanceRunRequest(
        parent="projects/shop",
        performance_run=benchmarks_pb2.PerformanceRun(
            model_version=f"{CHEAP}/versions/1",
            instance_type="local-1",
            protocol={"trials": 1},
            metrics={"latency_p50_s": "0.25"},
        ),
        request_id="once",
    )
    as_member("shop")
    stored = await service.CreatePerformanceRun(request, None)
    assert (await service.CreatePerformanceRun(request, None)).id == stored.id

    async def seen(project: str) -> list[bool]:
        as_member(project)
        page = await service.ListPerformanceRuns(
            benchmarks_pb2.ListPerformanceRunsRequest(parent=f"projects/{project}", model=CHEAP), None
        )
        return sorted(run.shared for run in page.performance_runs)

    assert [await seen("shop"), await seen("other")] == [[False, True], [True]]
    compared = await service.CompareModels(benchmarks_pb2.CompareModelsRequest(names=[CHEAP]), None)
    assert [run.shared for run in compared.models[0].performance_runs] == [True]


@pytest.mark.parametrize(
    "run",
    [
        {"metrics": {"speed": "1"}},
        {"metrics": {"latency_p50_s": "fast"}},
        {"metrics": {"latency_p50_s": "-1"}},
        {"protocol": {"luck": 1}},
        {"host": "two\nlines"},
    ],
)
async def test_a_run_that_says_what_no_run_says_is_refused(service: BenchmarkServicer, run: dict[str, Any]) -> None:
    """An unknown word, or a number that is none."""
    as_member("shop")
    asked = benchmarks_pb2.PerformanceRun(model_version=f"{CHEAP}/versions/1", instance_type="local-1", **run)
    with pytest.raises(InvalidArgument):
        await service.CreatePerformanceRun(
            benchmarks_pb2.CreatePerformanceRunRequest(parent="projects/shop", performance_run=asked), None
        )
