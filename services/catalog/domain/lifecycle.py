"""Lifecycle stages from dates, what is ahead, and how much notice is promised; transitions happen at 00:00:00 UTC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from enum import IntEnum


class Stage(IntEnum):
    """The numbers are those of `modelyard.catalog.v1.LifecycleStage`; a version only ever moves to a higher one."""

    PREVIEW = 1
    GA = 2
    LEGACY = 3
    DEPRECATED = 4
    RETIRED = 5


class Change(IntEnum):
    """The numbers are those of `modelyard.catalog.v1.VersionChange`."""

    LEGACY = 1
    DEPRECATION = 2
    RETIREMENT = 3
    FINE_TUNE_DEPRECATION = 4
    FINE_TUNE_RETIREMENT = 5

    @property
    def word(self) -> str:
        """As it stands in resource names."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Dates:
    """When a version's stages begin; None where no date is set."""

    preview: bool = False
    legacy: date | None = None
    deprecation: date | None = None
    retirement: date | None = None


def stage_at(dates: Dates, now: datetime) -> Stage:
    """The stage at a moment: the last one whose date has come."""
    for stage, begins in (
        (Stage.RETIRED, dates.retirement),
        (Stage.DEPRECATED, dates.deprecation),
        (Stage.LEGACY, dates.legacy),
    ):
        if begins is not None and now >= midnight(begins):
            return stage
    return Stage.PREVIEW if dates.preview else Stage.GA


@dataclass(frozen=True)
class Notice:
    """What is promised to those who use a version, in days.

    Attributes:
        legacy_days: Least time from becoming legacy, or from being told, until it takes no new deployments.
        deprecated_days: Least time from then, or from being told, until it answers nothing.
    """

    legacy_days: int = 30
    deprecated_days: int = 90


def short_notice(before: Dates, after: Dates, today: date, notice: Notice) -> Iterator[str]:
    """In which way new dates give less notice than is promised; nothing where they do not.

    Dates that give no less than the old ones did are no news: what was announced once is not judged again.
    """
    for stage, ends, left, promised in (
        ("deprecated", after.deprecation, _legacy_days, notice.legacy_days),
        ("retired", after.retirement, _deprecated_days, notice.deprecated_days),
    ):
        had, has = left(before, today), left(after, today)
        if has is not None and has < promised and (had is None or has < had):
            yield f"it would be {stage} on {ends} with {max(has, 0)} days' notice, and {promised} are promised"


def _legacy_days(dates: Dates, today: date) -> int | None:
    """How long it would still be known to be legacy before it is deprecated; None where that is not planned."""
    return None if dates.deprecation is None else (dates.deprecation - max(today, dates.legacy or today)).days


def _deprecated_days(dates: Dates, today: date) -> int | None:
    """How long it would still be known to be deprecated before it is retired; None where that is not planned."""
    return None if dates.retirement is None else (dates.retirement - max(today, dates.deprecation or today)).days


def announcement_due(days_left: int, announce_days: Sequence[int]) -> int | None:
    """Which announcement of a change is due: the nearest whose day has come; None where none has.

    Args:
        days_left: Whole days until the change, >= 1.
        announce_days: How many days ahead it is announced, in any order.
    """
    return min((days for days in announce_days if days_left <= days), default=None)


def midnight(day: date) -> datetime:
    """The moment a date begins, UTC."""
    return datetime.combine(day, time(), UTC)
