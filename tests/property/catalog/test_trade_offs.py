"""The front holds exactly the models that no other one beats."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.catalog.domain.benchmarks import TradeOff, pareto_front

numbers = st.integers(min_value=0, max_value=20).map(Fraction)
points = st.lists(st.tuples(numbers, numbers), max_size=30).map(
    lambda pairs: [TradeOff(f"m{place}", quality, against) for place, (quality, against) in enumerate(pairs)]
)


def beats(one: TradeOff, other: TradeOff, *, smaller_is_better: bool) -> bool:
    sign = -1 if smaller_is_better else 1
    mine, theirs = (one.quality, sign * one.against), (other.quality, sign * other.against)
    return mine != theirs and mine[0] >= theirs[0] and mine[1] >= theirs[1]


@pytest.mark.parametrize("smaller_is_better", [True, False])
@given(points)
def test_the_front_is_what_nobody_beats(smaller_is_better: bool, candidates: list[TradeOff]) -> None:
    """By comparing every pair; equals stand side by side."""
    expected = {
        one.model
        for one in candidates
        if not any(beats(other, one, smaller_is_better=smaller_is_better) for other in candidates)
    }
    assert pareto_front(candidates, smaller_is_better=smaller_is_better) == expected
