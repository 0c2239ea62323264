"""A life cut at hours: nothing missing, nothing twice."""

from __future__ import annotations

from services.billing.domain.windows import HOUR_MS, Life, cut

TEN = 10 * HOUR_MS


def life(allocate: int, through: int, release: int | None = None, vcpus: int = 2) -> Life:
    return Life("i", vcpus, allocate, through, release)


def spans(lived: Life, from_ms: int | None = None) -> list[tuple[int, int, bool]]:
    return [(window.start_ms, window.end_ms, window.closed) for window in cut(lived, from_ms)]


def test_a_life_is_cut_at_full_hours() -> None:
    """The running hour stays open."""
    assert spans(life(TEN + 5, TEN + 2 * HOUR_MS + 7)) == [
        (TEN + 5, TEN + HOUR_MS, True),
        (TEN + HOUR_MS, TEN + 2 * HOUR_MS, True),
        (TEN + 2 * HOUR_MS, TEN + 2 * HOUR_MS + 7, False),
    ]


def test_an_hour_is_over_when_it_was_lived_through() -> None:
    """Seen at the full hour: closed; and no empty window after it."""
    assert spans(life(TEN, TEN + HOUR_MS)) == [(TEN, TEN + HOUR_MS, True)]


def test_a_release_closes_the_last_window() -> None:
    """It ends there, inside the hour."""
    assert spans(life(TEN, TEN + 10, TEN + 90)) == [(TEN, TEN + 90, True)]


def test_an_instance_that_was_never_seen_has_no_window() -> None:
    """Allocated and nothing more: nothing is billed yet."""
    assert spans(life(TEN, 0)) == []


def test_a_release_before_the_allocation_bills_nothing() -> None:
    """It never lived."""
    assert spans(life(TEN, 0, TEN - 5)) == []


def test_a_life_never_ends_before_it_was_last_seen() -> None:
    """Whatever release is said: facts in any order give one bill."""
    assert spans(life(TEN, TEN + 50, TEN + 40)) == [(TEN, TEN + 50, True)]


def test_a_window_counts_cores() -> None:
    """Core-milliseconds are cores times the time."""
    assert [window.core_ms for window in cut(life(TEN, TEN + 30, vcpus=4))] == [120]


def test_a_window_has_the_same_id_whoever_cuts_it() -> None:
    """Open or closed, from the beginning or from where it starts: that is how it is posted once."""
    open_one = cut(life(TEN, TEN + HOUR_MS + 5))[-1]
    closed_one = cut(life(TEN, TEN + 2 * HOUR_MS), from_ms=TEN + HOUR_MS)[0]
    assert open_one.id == closed_one.id


def test_windows_of_two_instances_have_other_ids() -> None:
    """The instance is part of the id."""
    (first,), (second,) = cut(Life("a", 1, TEN, TEN + 5, None)), cut(Life("b", 1, TEN, TEN + 5, None))
    assert first.id != second.id
