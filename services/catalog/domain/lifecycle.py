"""Lifecycle stages from dates; transitions happen at 00:00:00 UTC."""

from __future__ import annotations

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


def midnight(day: date) -> datetime:
    """The moment a date begins, UTC."""
    return datetime.combine(day, time(), UTC)
