"""Results that publishers report of their own models, beside those of the shipped benchmarks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from chassis.database import UnitOfWork
from services.catalog.sources.benchmarks import score_id
from services.catalog.sources.interface import PublishedScore
from services.catalog.storage.queries.benchmarks import datasets, replace_of_origin
from services.catalog.storage.tables import DatasetRow, ScoreRow

_UNFIT = re.compile(r"[^a-z0-9]+")
_PERCENT = 100


async def put_scores(
    uow: UnitOfWork, source: str, model: str, day: str, scores: Sequence[PublishedScore]
) -> dict[str, int]:
    """Leave exactly these results of a model, those on datasets that the benchmarks know.

    Args:
        model: Resource name.
        day: `YYYY-MM-DD` on which they were published.

    Returns:
        How many were left out, by reason.
    """
    known = {word: row for row in await datasets(uow.session) for word in (_word(row.id), _word(row.display_name))}
    dropped: Counter[str] = Counter()
    rows: dict[str, dict[str, Any]] = {}
    for score in scores:
        dataset = known.get(_word(score.dataset)) or known.get(_word(score.dataset_id.rpartition("/")[2]))
        value = None if dataset is None else _in_range(Decimal(score.value), dataset)
        if dataset is None:
            dropped["a dataset that the benchmarks do not know"] += 1
        elif value is None:
            dropped["a value outside its dataset's range"] += 1
        else:
            row = _row(source, model, day, score, dataset, value)
            rows[row["id"]] = row
    await replace_of_origin(uow, ScoreRow, f"{source}/{model}", list(rows.values()))
    return dict(dropped)


def _row(
    source: str, model: str, day: str, score: PublishedScore, dataset: DatasetRow, value: Decimal
) -> dict[str, Any]:
    metric = _word(score.metric)
    return {
        "id": score_id(model, dataset.id, metric, score.shots, score.source, score.split),
        "origin": f"{source}/{model}",
        "model": model,
        "dataset": dataset.id,
        "metric": metric,
        "value": f"{value:f}",
        "shots": score.shots,
        "date": day,
        "date_kind": "published",
        "source": score.source,
        "detail": score.split,
    }


def _in_range(value: Decimal, dataset: DatasetRow) -> Decimal | None:
    """The value in its dataset's range, also where it was published in percent; None where it is in neither."""
    if 0 <= value <= dataset.value_max:
        return value
    if dataset.value_max == 1 and value <= _PERCENT:
        return value / _PERCENT if value > 0 else None
    return None


def _word(name: str) -> str:
    return _UNFIT.sub("-", name.lower()).strip("-")


def counted(*reasons: Mapping[str, int]) -> dict[str, int]:
    """How many were left out in all, by reason."""
    total: Counter[str] = Counter()
    for one in reasons:
        total.update(one)
    return dict(total)
