"""Benchmarks from the content folder: datasets, published scores, and performance that was measured here.

A score without its metric, dataset, shots, date or source is refused: a number alone compares nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from datetime import date
from decimal import Decimal
from typing import Annotated, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from services.catalog.sources.content import Id, Replacement, Word

# Scores are written as text, so that their digits stay.
Number = Annotated[str, StringConstraints(pattern=r"^-?\d{1,9}(\.\d{1,9})?$")]
Form = TypeVar("Form", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Scenario(_Strict):
    id: Word
    display_name: str
    description: str


class Dataset(_Strict):
    id: Word
    display_name: str
    scenario: Word
    # The best possible value; scores lie between 0 and it.
    value_max: int = Field(gt=0)
    higher_is_better: bool


class Score(_Strict):
    """One published result. `shots` is "none" where the benchmark gives no examples, as with agents."""

    model: Replacement
    dataset: Word
    metric: Word
    value: Number
    shots: Annotated[int, Field(ge=0, le=64)] | Literal["none"]
    date: date
    # Whether the date is that of the result, or, where none is published, the day it was read.
    date_kind: Literal["published", "read"] = "published"
    source: Annotated[str, StringConstraints(min_length=1, max_length=500)]
    # What else tells two results apart: harness, subset, effort.
    detail: str = ""

    @property
    def id(self) -> str:
        """See `score_id`."""
        return score_id(self.model, self.dataset, self.metric, str(self.shots), self.source, self.detail)


def score_id(model: str, dataset: str, metric: str, shots: str, source: str, detail: str) -> str:
    """Digest of what a result is of, so that the same result stands once."""
    told = "\0".join((model, dataset, metric, shots, source, detail))
    return hashlib.sha256(told.encode()).hexdigest()[:32]


class Run(_Strict):
    """Performance of a version on an instance type, measured by `modelyard benchmark run`."""

    model: Replacement
    version: Id
    instance_type: Id
    date: date
    # Named as `modelyard.catalog.v1.PerformanceRun` names them.
    protocol: dict[str, int]
    metrics: dict[str, Number]
    host: str

    @property
    def id(self) -> str:
        """Digest of what was measured."""
        told = "\0".join((self.model, self.version, self.instance_type, self.date.isoformat(), self.host))
        return hashlib.sha256(told.encode()).hexdigest()[:32]


class Datasets(_Strict):
    scenarios: list[Scenario]
    datasets: list[Dataset]

    @model_validator(mode="after")
    def _known(self) -> Datasets:
        scenarios = {scenario.id for scenario in self.scenarios}
        for dataset in self.datasets:
            if dataset.scenario not in scenarios:
                raise ValueError(f"dataset {dataset.id!r} is of scenario {dataset.scenario!r}, which is not listed")
        return self


class Scores(_Strict):
    scores: list[Score]


class Runs(_Strict):
    runs: list[Run]


class Benchmarks(_Strict):
    """All benchmark files together."""

    scenarios: list[Scenario] = []
    datasets: list[Dataset] = []
    scores: list[Score] = []
    runs: list[Run] = []


class Files(Protocol):
    """Reads files of a content folder and remembers what is wrong with them."""

    def read(self, name: str, form: type[Form]) -> Form | None: ...
    def names(self, folder: str) -> list[str]: ...
    def line(self, name: str, steps: Iterable[str | int]) -> int: ...
    def add(self, name: str, line: int, field: str, reason: str) -> None: ...


def read_benchmarks(files: Files, models: Collection[str]) -> Benchmarks:
    """Read `benchmarks/` of a content folder; mistakes are added to `files`. A folder without it has none.

    Args:
        models: Every model of the content, as `PUBLISHER/MODEL`.
    """
    if not files.names("benchmarks"):
        return Benchmarks()
    head = files.read("benchmarks/datasets.yaml", Datasets)
    scores = [(name, part.scores) for name in files.names("benchmarks/scores") if (part := files.read(name, Scores))]
    runs = [(name, found.runs) for name in files.names("benchmarks/runs") if (found := files.read(name, Runs))]
    if head is not None:
        _check_scores(files, head.datasets, scores, models)
    for name, listed in runs:
        for position, run in enumerate(listed):
            if run.model not in models:
                steps = ("runs", position, "model")
                files.add(name, files.line(name, steps), ".".join(map(str, steps)), _unknown(run.model))
    return Benchmarks(
        scenarios=head.scenarios if head else [],
        datasets=head.datasets if head else [],
        scores=[score for _, listed in scores for score in listed],
        runs=[run for _, listed in runs for run in listed],
    )


def _check_scores(
    files: Files, datasets: list[Dataset], scores: list[tuple[str, list[Score]]], models: Collection[str]
) -> None:
    known = {dataset.id: dataset for dataset in datasets}
    seen: set[str] = set()
    for name, listed in scores:
        for position, score in enumerate(listed):
            where = f"score of {score.model} on {score.dataset}"
            dataset = known.get(score.dataset)
            wrong = {
                "model": "" if score.model in models else _unknown(score.model),
                "dataset": "" if dataset else f"{where}: the dataset is not in datasets.yaml",
                "value": ""
                if dataset is None or 0 <= Decimal(score.value) <= dataset.value_max
                else f"{where} is {score.value}; 0 to {dataset.value_max} are possible",
                "detail": f"{where} from {score.source} stands twice; `detail` tells results apart"
                if score.id in seen
                else "",
            }
            seen.add(score.id)
            for field, reason in wrong.items():
                if reason:
                    steps = ("scores", position, field)
                    files.add(name, files.line(name, steps), ".".join(map(str, steps)), reason)


def _unknown(model: str) -> str:
    return f"model {model!r} is not in the content"
