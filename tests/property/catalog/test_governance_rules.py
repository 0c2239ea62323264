"""Fit, policy and lifecycle for every input."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.catalog.domain.fit import Needs, Shape, misfits
from services.catalog.domain.lifecycle import Dates, Stage, midnight, stage_at
from services.catalog.domain.policy import Policed, Policy, violations

counts = st.integers(0, 200)
shapes = st.builds(
    Shape, st.just("t"), vcpus=st.integers(1, 200), gpus=counts, memory_bytes=st.integers(1, 200), disk_bytes=counts
)
needs = st.builds(
    Needs,
    vcpus=counts,
    gpus=counts,
    memory_bytes=counts,
    disk_bytes=counts,
    allowed=st.sampled_from([(), ("t",), ("other",)]),
)
words = st.lists(st.sampled_from("abc"), max_size=2, unique=True).map(tuple)
policies = st.builds(Policy, words, words, words, st.lists(st.sampled_from(["m", "m/1", "n"]), max_size=2).map(tuple))
policed = st.builds(
    Policed, *(st.sampled_from("abc") for _ in range(3)), model=st.just("m"), version=st.sampled_from(["m/1", "m/2"])
)
days = st.lists(st.dates(date(2026, 1, 1), date(2027, 1, 1)), min_size=3, max_size=3).map(sorted)


@given(needs, shapes, counts, st.sampled_from(["vcpus", "gpus", "memory_bytes", "disk_bytes"]))
def test_more_never_fits_less(wanted: Needs, shape: Shape, more: int, what: str) -> None:
    """What fits on a type fits on one that has more of anything."""
    larger = replace(shape, **{what: getattr(shape, what) + more})
    if not list(misfits("v", wanted, shape)):
        assert not list(misfits("v", wanted, larger))


@given(needs, needs, shapes)
def test_meeting_both_is_meeting_each(one: Needs, other: Needs, shape: Shape) -> None:
    """Needs of the engine and of the publisher together are fulfilled where each is."""
    other = replace(other, allowed=one.allowed)
    together = not list(misfits("v", one.with_at_least(other), shape))
    assert together == (not list(misfits("v", one, shape)) and not list(misfits("v", other, shape)))


@given(policies, policed, st.sampled_from(["m", "m/1", "m/2", "n"]))
def test_blocking_more_never_allows_more(policy: Policy, subject: Policed, entry: str) -> None:
    """What a policy refuses is refused by the same with a longer block-list."""
    stricter = replace(policy, blocked=(*policy.blocked, entry))
    assert set(violations(policy, subject)) <= set(violations(stricter, subject))


@given(policies, policed)
def test_a_policy_without_its_rules_allows(policy: Policy, subject: Policed) -> None:
    """Every refusal names a rule without which it would not be."""
    rules = {violation.rule for violation in violations(policy, subject)}
    assert not list(violations(replace(policy, **dict.fromkeys(rules, ())), subject))


@given(st.booleans(), days, st.integers(-400, 800), st.integers(0, 400))
def test_stages_only_move_forward(preview: bool, dates: list[date], hours: int, later: int) -> None:
    """Preview or GA, legacy, deprecated, retired; time never leads back."""
    lifecycle = Dates(preview, *dates)
    now = midnight(dates[0]) + timedelta(hours=hours)
    assert stage_at(lifecycle, now) <= stage_at(lifecycle, now + timedelta(hours=later))
    assert stage_at(lifecycle, midnight(dates[2])) is Stage.RETIRED
