"""Scores mean something together only when there are enough, and alone only with all their facts."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.catalog.domain.benchmarks import QUALITY_DATASETS, QUALITY_DATASETS_MIN, TokenPrice, quality_index
from services.catalog.domain.errors import ContentInvalid
from services.catalog.sources.content_files import read_content
from tests.integration.catalog.build import write_content

HEAD = {
    "scenarios": [{"id": "coding", "display_name": "Coding", "description": "Programs."}],
    "datasets": [
        {"id": "math", "display_name": "MATH", "scenario": "coding", "value_max": 1, "higher_is_better": True}
    ],
}
SCORE: dict[str, Any] = {
    "model": "acme/talker",
    "dataset": "math",
    "metric": "exact-match",
    "value": "0.5",
    "shots": 0,
    "date": date(2026, 1, 1),
    "source": "https://example.com/results",
}


def write(folder: Path, *scores: dict[str, Any]) -> Path:
    write_content(folder)
    (folder / "benchmarks" / "scores").mkdir(parents=True)
    (folder / "benchmarks" / "datasets.yaml").write_text(yaml.safe_dump(HEAD))
    (folder / "benchmarks" / "scores" / "acme.yaml").write_text(yaml.safe_dump({"scores": list(scores)}))
    return folder


def test_a_score_is_read_with_all_its_facts(tmp_path: Path) -> None:
    """Metric, dataset, shots, date and source; the digits stay as they were published."""
    (score,) = read_content(write(tmp_path, SCORE)).benchmarks.scores
    assert (score.value, score.shots, score.source) == ("0.5", 0, "https://example.com/results")


@pytest.mark.parametrize("field", ["metric", "dataset", "shots", "date", "source", "value", "model"])
def test_a_score_without_one_of_them_is_refused(tmp_path: Path, field: str) -> None:
    """By file, place and name."""
    lacking = {name: value for name, value in SCORE.items() if name != field}
    with pytest.raises(ContentInvalid, match=rf"acme.yaml:\d+: scores.0.{field}"):
        read_content(write(tmp_path, lacking))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"value": "1.5"}, "0 to 1 are possible"),
        ({"value": 0.5}, "valid string"),
        ({"dataset": "unheard-of"}, "not in datasets.yaml"),
        ({"model": "acme/nobody"}, "not in the content"),
        ({"shots": "few"}, "shots"),
        ({"source": ""}, "source"),
    ],
)
def test_a_score_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    """The value and what is possible stand in the message."""
    with pytest.raises(ContentInvalid, match=said):
        read_content(write(tmp_path, {**SCORE, **changes}))


def test_the_same_result_stands_once(tmp_path: Path) -> None:
    """Two of one benchmark are told apart by what else they say."""
    with pytest.raises(ContentInvalid, match="stands twice"):
        read_content(write(tmp_path, SCORE, {**SCORE, "value": "0.6"}))
    (tmp_path / "other").mkdir()
    content = read_content(write(tmp_path / "other", SCORE, {**SCORE, "detail": "high effort"}))
    assert len(content.benchmarks.scores) == 2


def test_the_index_needs_enough_sets() -> None:
    """With one less there is none, and it says which are missing."""
    enough = dict.fromkeys(QUALITY_DATASETS[:QUALITY_DATASETS_MIN], Decimal("0.5"))
    assert quality_index(enough).value == Fraction(1, 2)
    few = dict(list(enough.items())[1:])
    index = quality_index(few)
    assert index.value is None
    assert set(index.missing) == set(QUALITY_DATASETS) - few.keys()


def test_other_sets_do_not_count() -> None:
    """However many there are."""
    others = {f"set-{number}": Decimal(1) for number in range(20)}
    assert quality_index(others).value is None


def test_a_blend_is_three_in_to_one_out() -> None:
    """Exactly; and none where a price is missing."""
    assert TokenPrice(Fraction(1), Fraction(5)).blended == 2
    assert TokenPrice(Fraction(1), None).blended is None
