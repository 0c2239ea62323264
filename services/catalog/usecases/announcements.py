"""Say what is ahead of versions: each change a few times before it comes, once each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.clock import Clock
from chassis.database import Database
from services.catalog.domain.lifecycle import announcement_due
from services.catalog.events.published import change_announced
from services.catalog.storage.queries.lifecycle import Ahead, changes_ahead
from services.catalog.storage.queries.models import versions
from services.catalog.storage.queries.pages import take_turns
from services.catalog.storage.tables import AnnouncedChangeRow

_VERSIONS_PER_TRANSACTION = 500


async def announce_changes(database: Database, clock: Clock, announce_days: Sequence[int]) -> int:
    """Announce every change whose next announcement is due; return how many.

    Args:
        announce_days: How many days ahead, in any order.
    """
    today = clock.now().date()
    async with database.reader() as session:
        wanted = sorted({ahead.model_version for ahead, _ in await _due(session, today, announce_days)})
    total = 0
    for start in range(0, len(wanted), _VERSIONS_PER_TRANSACTION):
        total += await _announce(database, clock, announce_days, wanted[start : start + _VERSIONS_PER_TRANSACTION])
    if total:
        # Every version that something is ahead of was read for that.
        await database.release_memory()
    return total


async def _announce(database: Database, clock: Clock, announce_days: Sequence[int], names: Sequence[str]) -> int:
    """Announce what is due of some versions, as they are once nobody else changes them."""
    now = clock.now()
    async with database.unit_of_work() as uow:
        await take_turns(uow, database)
        due = await _due(uow.session, now.date(), announce_days, names)
        rows = await versions(uow.session, names)
        for ahead, days in due:
            row = rows[ahead.model_version]
            row.event_sequence += 1
            uow.session.add(row)
            await uow.session.merge(
                AnnouncedChangeRow(
                    version_uid=row.uid, change=int(ahead.change), day=ahead.day.isoformat(), days_ahead=days
                )
            )
            uow.emit(change_announced(row.name, row.uid, ahead, days, row.event_sequence, now))
    return len(due)


async def _due(
    session: AsyncSession, today: date, announce_days: Sequence[int], names: Sequence[str] | None = None
) -> list[tuple[Ahead, int]]:
    """Changes with the announcement that is due, of some versions or of all; what was missed collapses into the nearest."""
    if not announce_days:
        return []
    found = []
    for ahead in await changes_ahead(session, today, today + timedelta(days=max(announce_days)), names):
        days = announcement_due((ahead.day - today).days, announce_days)
        if days is not None and (ahead.announced_days is None or days < ahead.announced_days):
            found.append((ahead, days))
    return found
