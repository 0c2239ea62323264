"""Billing periods: UTC months, open or closed."""

from __future__ import annotations

import re
from datetime import datetime

from services.billing.domain.errors import PeriodInvalid

_PERIOD = re.compile(r"[0-9]{4}-(?:0[1-9]|1[0-2])")


def period_of(moment: datetime) -> str:
    """The month a UTC moment lies in, `YYYY-MM`."""
    return f"{moment.year:04d}-{moment.month:02d}"


def check_period(period: str, now: datetime) -> str:
    """A period as a caller names it; empty means the running one.

    Raises:
        PeriodInvalid: not of the form `YYYY-MM`.
    """
    if not period:
        return period_of(now)
    if not _PERIOD.fullmatch(period):
        raise PeriodInvalid(f"period {period[:20]!r} is not a month of the form 'YYYY-MM'", field="period")
    return period


def next_period(period: str) -> str:
    """The month after one."""
    months = int(period[:4]) * 12 + int(period[5:])
    return f"{months // 12:04d}-{months % 12 + 1:02d}"


def posting_period(occurred: str, now: str, closed: set[str]) -> tuple[str, bool]:
    """The period a record is stamped with for ever, and whether it is a correction.

    It is the period of its occurrence while that is open, else the running one; where that was closed by a clock ahead
    of ours, the next.
    """
    if occurred not in closed:
        return occurred, False
    while now in closed:
        now = next_period(now)
    return now, True
