"""Stages of versions: read from their dates, announced once when their day comes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import date, datetime

from modelyard.catalog.v1 import providers_pb2

from chassis.clock import Clock
from chassis.database import DATABASE_ERRORS, Database, UnitOfWork
from chassis.telemetry import get_logger
from services.catalog.domain.lifecycle import Dates, Stage, midnight, stage_at
from services.catalog.events.published import lifecycle_changed
from services.catalog.storage.queries.models import models, newest_change, versions_due
from services.catalog.storage.queries.pages import take_turns
from services.catalog.storage.tables import VersionRow
from services.catalog.usecases.announcements import announce_changes

log = get_logger(__name__)


async def announce_stages(database: Database, clock: Clock) -> int:
    """Announce every version whose stage has changed with the time; return how many."""
    now = clock.now()
    async with database.reader() as session:
        if not await versions_due(session, now.date()):
            return 0
    async with database.unit_of_work() as uow:
        await take_turns(uow, database)
        due = await versions_due(uow.session, now.date())
        owners = await models(uow.session, sorted({row.model for row in due}))
        sequence = await newest_change(uow.session)
        for row in due:
            announce(uow, row, stage_of(row, now), now)
        for count, owner in enumerate(owners.values(), start=1):
            owner.change_sequence = sequence + count
            uow.session.add(owner)
    return len(due)


async def watch_dates(database: Database, clock: Clock, check_s: float, announce_days: Sequence[int]) -> None:
    """Announce stages and what is ahead for ever; what comes while the database is away is announced when it is back.

    Versions are looked through when the day or a model has changed, not each time.
    """
    seen: tuple[date, int] | None = None
    while True:
        try:
            async with database.reader() as session:
                current = clock.now().date(), await newest_change(session)
            if current != seen:
                await announce_stages(database, clock)
                await announce_changes(database, clock, announce_days)
                seen = current
        except DATABASE_ERRORS as error:
            log.warning("lifecycle dates wait", error=str(error), retry_s=check_s)
        await asyncio.sleep(check_s)


def announce(
    uow: UnitOfWork,
    row: VersionRow,
    stage: Stage,
    now: datetime,
    *,
    provider: providers_pb2.ProviderTarget | None = None,
) -> None:
    """Let a version enter a stage, or keep it with other dates or another place of its provider, and say so."""
    row.stage = int(stage)
    row.event_sequence += 1
    uow.session.add(row)
    uow.emit(
        lifecycle_changed(
            row.name,
            row.uid,
            row.stage,
            deprecation_time=moment_of(row.deprecation_date),
            retire_time=moment_of(row.retirement_date),
            replacement=row.replacement,
            sequence=row.event_sequence,
            now=now,
            provider=provider,
        )
    )


def stage_of(row: VersionRow, now: datetime) -> Stage:
    """The stage of a version; what was announced is never taken back."""
    return max(Stage(row.stage), stage_at(dates_of(row), now))


def dates_of(row: VersionRow) -> Dates:
    """When the stages of a version begin."""
    return Dates(row.preview, day_of(row.legacy_date), day_of(row.deprecation_date), day_of(row.retirement_date))


def moment_of(text: str) -> datetime | None:
    """The moment a stored day begins, UTC; None where none is set."""
    day = day_of(text)
    return None if day is None else midnight(day)


def day_of(text: str) -> date | None:
    """A stored day; None where none is set."""
    return date.fromisoformat(text) if text else None
