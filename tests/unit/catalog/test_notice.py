"""How much notice is promised before a version ends, and when what is ahead is announced."""

from __future__ import annotations

from datetime import date

import pytest

from services.catalog.domain.lifecycle import Dates, Notice, announcement_due, short_notice

TODAY = date(2026, 1, 1)
PLANNED = Dates(legacy=date(2026, 2, 1), deprecation=date(2026, 4, 1), retirement=date(2026, 8, 1))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (Dates(), PLANNED, []),
        (Dates(), Dates(deprecation=date(2026, 1, 20)), ["deprecated on 2026-01-20 with 19 days' notice, and 30"]),
        (Dates(), Dates(legacy=date(2026, 2, 1), deprecation=date(2026, 2, 22)), ["with 21 days' notice, and 30"]),
        (Dates(), Dates(retirement=date(2026, 2, 1)), ["retired on 2026-02-01 with 31 days' notice, and 90"]),
        (Dates(), Dates(retirement=date(2025, 12, 1)), ["retired on 2025-12-01 with 0 days' notice"]),
        (
            Dates(),
            Dates(deprecation=date(2026, 1, 5), retirement=date(2026, 2, 1)),
            ["deprecated on 2026-01-05", "retired on 2026-02-01 with 27 days' notice"],
        ),
        # Legacy long ago, but told today only.
        (Dates(), Dates(legacy=date(2025, 1, 1), deprecation=date(2026, 1, 2)), ["with 1 days' notice"]),
        (PLANNED, Dates(PLANNED.preview, PLANNED.legacy, PLANNED.deprecation, date(2026, 6, 1)), ["with 61 days"]),
        (PLANNED, Dates(PLANNED.preview, date(2026, 3, 20), PLANNED.deprecation, PLANNED.retirement), ["12 days"]),
        (PLANNED, Dates(), []),
        (PLANNED, Dates(retirement=date(2026, 12, 1)), []),
    ],
)
def test_new_dates(before: Dates, after: Dates, said: list[str]) -> None:
    """Too little notice is named with the day, what there would be and what is promised."""
    found = list(short_notice(before, after, TODAY, Notice(30, 90)))
    assert len(found) == len(said)
    assert all(words in sentence for words, sentence in zip(said, found, strict=True))


def test_short_notice_that_was_published_is_not_judged_again() -> None:
    """A version that came with 21 and 61 days, as some publishers give, keeps them."""
    published = Dates(legacy=date(2026, 1, 10), deprecation=date(2026, 1, 31), retirement=date(2026, 4, 2))
    assert list(short_notice(Dates(), published, TODAY, Notice(30, 90)))
    assert not list(short_notice(published, published, date(2026, 3, 1), Notice(30, 90)))


def test_no_notice_is_promised_where_the_operator_promises_none() -> None:
    """Both settings may be zero."""
    assert not list(short_notice(Dates(), Dates(retirement=date(2025, 12, 1)), date(2025, 12, 1), Notice(0, 0)))


@pytest.mark.parametrize(
    ("days_left", "due"), [(120, None), (90, 90), (45, 90), (30, 30), (8, 30), (7, 7), (2, 7), (1, 1)]
)
def test_which_announcement_is_due(days_left: int, due: int | None) -> None:
    """90, 30, 7 and 1 days ahead; late ones collapse into the nearest."""
    assert announcement_due(days_left, (90, 30, 7, 1)) == due
