"""Fit, policy and lifecycle for every input."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.catalog.domain.fit import Needs, Shape, misfits
from services.catalog.domain.lifecycle import (
    Dates,
    Notice,
    Stage,
    announcement_due,
    midnight,
    short_notice,
    stage_at,
)
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


@given(days, st.dates(date(2025, 6, 1), date(2027, 6, 1)), st.integers(0, 400), st.integers(0, 400))
def test_what_was_promised_once_may_be_prolonged(dates: list[date], today: date, deprecated: int, retired: int) -> None:
    """The same dates, and any that end later, never give too little notice."""
    before = Dates(False, *dates)
    later = replace(before, deprecation=dates[1] + timedelta(days=deprecated))
    later = replace(later, retirement=dates[2] + timedelta(days=deprecated + retired))
    assert not list(short_notice(before, before, today, Notice()))
    assert not list(short_notice(before, later, today, Notice()))


@given(days, st.dates(date(2025, 6, 1), date(2027, 6, 1)))
def test_new_dates_that_pass_give_the_promised_notice(dates: list[date], today: date) -> None:
    """Whoever is told today has at least the promised days, in each stage."""
    legacy, deprecation, retirement = dates
    notice = Notice(30, 90)
    if not list(short_notice(Dates(), Dates(False, *dates), today, notice)):
        assert (deprecation - max(today, legacy)).days >= notice.legacy_days
        assert (retirement - max(today, deprecation)).days >= notice.deprecated_days


@given(st.integers(1, 200), st.lists(st.integers(1, 200), max_size=5))
def test_the_nearest_announcement_is_due(days_left: int, announce_days: list[int]) -> None:
    """Of those whose day has come the one closest to the change; the count never rises as time goes by."""
    due = announcement_due(days_left, announce_days)
    assert due is None or (due in announce_days and due >= days_left)
    later = announcement_due(days_left + 1, announce_days)
    assert later is None or (due is not None and due <= later)
