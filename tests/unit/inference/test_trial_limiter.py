"""One member of a project tries models so often a minute, whatever others do."""

from __future__ import annotations

import pytest

from services.inference.domain.errors import TrialLimitReached
from services.inference.domain.trials import WINDOW_S, TrialLimiter


def test_the_limit_holds_within_a_minute() -> None:
    """The refusal says how long to wait, and after that one more is taken."""
    limiter = TrialLimiter(2)
    limiter.take("p", "ann", 100.0)
    limiter.take("p", "ann", 110.0)
    with pytest.raises(TrialLimitReached, match="2 are allowed") as refused:
        limiter.take("p", "ann", 120.0)
    assert refused.value.retry_after_s == pytest.approx(WINDOW_S - 20)
    limiter.take("p", "ann", 100.0 + WINDOW_S)


def test_others_have_limits_of_their_own() -> None:
    """Another member, and the same one in another project."""
    limiter = TrialLimiter(1)
    for project, member in (("p", "ann"), ("p", "ben"), ("q", "ann")):
        limiter.take(project, member, 0.0)


def test_a_refused_try_does_not_count() -> None:
    """Waiting as long as was said is enough."""
    limiter = TrialLimiter(1)
    limiter.take("p", "ann", 0.0)
    for moment in (1.0, 30.0, 59.0):
        with pytest.raises(TrialLimitReached):
            limiter.take("p", "ann", moment)
    limiter.take("p", "ann", WINDOW_S)


def test_as_many_members_are_remembered_as_may_be() -> None:
    """Whoever was quiet longest is forgotten first."""
    limiter = TrialLimiter(1, members_max=2)
    for member in ("ann", "ben", "cleo"):
        limiter.take("p", member, 0.0)
    limiter.take("p", "ann", 1.0)
    with pytest.raises(TrialLimitReached):
        limiter.take("p", "cleo", 1.0)
