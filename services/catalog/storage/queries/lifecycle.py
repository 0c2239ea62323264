"""Changes that are ahead of versions, their announcements, and overrides of promised notice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Select, and_, literal, select, tuple_, union_all
from sqlmodel.ext.asyncio.session import AsyncSession

from services.catalog.domain.lifecycle import Change
from services.catalog.storage.queries.pages import table
from services.catalog.storage.tables import AnnouncedChangeRow, ModelRow, NoticeOverrideRow, VersionRow

_VERSION, _MODEL = table(VersionRow), table(ModelRow)
_ANNOUNCED, _OVERRIDE = table(AnnouncedChangeRow), table(NoticeOverrideRow)
_COLUMNS = {
    Change.LEGACY: "legacy_date",
    Change.DEPRECATION: "deprecation_date",
    Change.RETIREMENT: "retirement_date",
    Change.FINE_TUNE_DEPRECATION: "fine_tune_deprecation_date",
    Change.FINE_TUNE_RETIREMENT: "fine_tune_retirement_date",
}


@dataclass(frozen=True, slots=True)
class Ahead:
    """A change that is ahead of a version, and the last announcement of it."""

    model_version: str
    change: Change
    day: date
    replacement: str
    # None where it was never announced for this day.
    announced_days: int | None = None


async def changes_ahead_page(
    session: AsyncSession, today: date, last: date, after: tuple[str, str, int], limit: int
) -> list[Ahead]:
    """Changes of versions everybody sees, after (day, version, change), in that order."""
    ahead = union_all(*(_ahead(change, today, last) for change in Change)).subquery()
    query = (
        select(ahead)
        .join(_MODEL, _MODEL.c.name == ahead.c.model)
        .where(_MODEL.c.project_uid == "", tuple_(ahead.c.day, ahead.c.name, ahead.c.change) > after)
        .order_by(ahead.c.day, ahead.c.name, ahead.c.change)
        .limit(limit)
    )
    return [
        Ahead(row.name, Change(row.change), date.fromisoformat(row.day), row.replacement)
        for row in await session.execute(query)
    ]


async def changes_ahead(
    session: AsyncSession, today: date, last: date, names: Sequence[str] | None = None
) -> list[Ahead]:
    """Changes until a day, of some versions or of all, with what was announced of them."""
    ahead = union_all(*(_ahead(change, today, last) for change in Change)).subquery()
    same = and_(
        _ANNOUNCED.c.version_uid == ahead.c.uid,
        _ANNOUNCED.c.change == ahead.c.change,
        _ANNOUNCED.c.day == ahead.c.day,
    )
    query = select(ahead, _ANNOUNCED.c.days_ahead).outerjoin(_ANNOUNCED, same).order_by(ahead.c.day, ahead.c.name)
    if names is not None:
        query = query.where(ahead.c.name.in_(names))
    return [
        Ahead(row.name, Change(row.change), date.fromisoformat(row.day), row.replacement, row.days_ahead)
        for row in await session.execute(query)
    ]


def _ahead(change: Change, today: date, last: date) -> Select[tuple[str, str, str, int, str, str]]:
    day = _VERSION.c[_COLUMNS[change]]
    return select(
        _VERSION.c.name,
        _VERSION.c.uid,
        _VERSION.c.model,
        literal(int(change)).label("change"),
        day.label("day"),
        _VERSION.c.replacement,
    ).where(day != "", day > today.isoformat(), day <= last.isoformat())


async def overrides_of(session: AsyncSession, model_versions: Sequence[str]) -> list[NoticeOverrideRow]:
    """Every override for some versions."""
    query = select(NoticeOverrideRow).where(_OVERRIDE.c.model_version.in_(model_versions))
    return list((await session.execute(query)).scalars())


async def overrides_page(session: AsyncSession, before: str, limit: int) -> list[NoticeOverrideRow]:
    """Overrides before a uid, newest first; uids are in time order."""
    query = select(NoticeOverrideRow).order_by(_OVERRIDE.c.uid.desc()).limit(limit)
    return list((await session.execute(query.where(_OVERRIDE.c.uid < before) if before else query)).scalars())
