"""Models, versions and their long texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlmodel.ext.asyncio.session import AsyncSession

from services.catalog.domain.lifecycle import Stage
from services.catalog.storage.queries.pages import table
from services.catalog.storage.tables import LicenseTextRow, ModelRow, ModelTextRow, VersionOriginRow, VersionRow

_MODEL, _VERSION = table(ModelRow), table(VersionRow)
# Names in one statement; databases bound the parameters of one.
_NAMES_PER_STATEMENT = 500


async def model(session: AsyncSession, name: str) -> ModelRow | None:
    """One model by its resource name."""
    return (await session.execute(select(ModelRow).where(_MODEL.c.name == name))).scalar_one_or_none()


async def models(session: AsyncSession, names: Sequence[str]) -> dict[str, ModelRow]:
    """Models by resource name; those that are not there are left out."""
    found: dict[str, ModelRow] = {}
    for part in _parts(names):
        rows = (await session.execute(select(ModelRow).where(_MODEL.c.name.in_(part)))).scalars()
        found |= {row.name: row for row in rows}
    return found


async def text_of(session: AsyncSession, name: str) -> ModelTextRow | None:
    """The long texts of a model."""
    query = select(ModelTextRow).where(table(ModelTextRow).c.model == name)
    return (await session.execute(query)).scalar_one_or_none()


async def texts_of(session: AsyncSession, names: Sequence[str]) -> dict[str, ModelTextRow]:
    """The long texts of models, by model."""
    found: dict[str, ModelTextRow] = {}
    for part in _parts(names):
        rows = (await session.execute(select(ModelTextRow).where(table(ModelTextRow).c.model.in_(part)))).scalars()
        found |= {row.model: row for row in rows}
    return found


async def replacements(session: AsyncSession, names: Sequence[str]) -> dict[str, str]:
    """The model that the newest version of each of these models names to move to; those that name none are left out."""
    found: dict[str, str] = {}
    for part in _parts(names):
        query = (
            select(_MODEL.c.name, _VERSION.c.replacement)
            .join(_VERSION, _VERSION.c.name == _MODEL.c.latest_version)
            .where(_MODEL.c.name.in_(part), _VERSION.c.replacement != "")
        )
        found |= {row.name: row.replacement for row in await session.execute(query)}
    return found


async def license_text(session: AsyncSession, digest: str) -> str:
    """The text of a licence by its digest; empty where it is not shipped."""
    if not digest:
        return ""
    columns = table(LicenseTextRow).c
    return (await session.execute(select(columns.text).where(columns.digest == digest))).scalar_one_or_none() or ""


async def version(session: AsyncSession, name: str) -> VersionRow | None:
    """One version by its resource name."""
    return (await session.execute(select(VersionRow).where(_VERSION.c.name == name))).scalar_one_or_none()


async def version_by_uid(session: AsyncSession, uid: str) -> VersionRow | None:
    """One version by its immutable id."""
    return (await session.execute(select(VersionRow).where(_VERSION.c.uid == uid))).scalar_one_or_none()


async def versions(session: AsyncSession, names: Sequence[str]) -> dict[str, VersionRow]:
    """Versions by resource name; those that are not there are left out."""
    found: dict[str, VersionRow] = {}
    for part in _parts(names):
        rows = (await session.execute(select(VersionRow).where(_VERSION.c.name.in_(part)))).scalars()
        found |= {row.name: row for row in rows}
    return found


async def origins_page(session: AsyncSession, model_name: str, after: str, limit: int) -> list[VersionOriginRow]:
    """Versions as their publishers wrote them, by version name, after one; of one model, or of all that everybody sees."""
    origins = table(VersionOriginRow)
    query = (
        select(VersionOriginRow)
        .join(_VERSION, _VERSION.c.name == origins.c.version)
        .join(_MODEL, _MODEL.c.name == _VERSION.c.model)
        .where(origins.c.version > after, _MODEL.c.project_uid == "")
        .order_by(origins.c.version)
        .limit(limit)
    )
    if model_name:
        query = query.where(_VERSION.c.model == model_name)
    return list((await session.execute(query)).scalars())


async def versions_page(session: AsyncSession, model_name: str, before: int, limit: int) -> list[VersionRow]:
    """Versions of a model, newest first, older than a position."""
    query = (
        select(VersionRow)
        .where(_VERSION.c.model == model_name, _VERSION.c.position < before)
        .order_by(_VERSION.c.position.desc())
        .limit(limit)
    )
    return list((await session.execute(query)).scalars())


async def versions_due(session: AsyncSession, today: date) -> list[VersionRow]:
    """Versions whose announced stage is behind what their dates say."""
    day = today.isoformat()

    def due(column: str, stage: Stage) -> ColumnElement[bool]:
        return and_(_VERSION.c[column] != "", _VERSION.c[column] <= day, _VERSION.c.stage < int(stage))

    query = (
        select(VersionRow)
        .where(
            or_(
                due("legacy_date", Stage.LEGACY),
                due("deprecation_date", Stage.DEPRECATED),
                due("retirement_date", Stage.RETIRED),
            )
        )
        .order_by(_VERSION.c.name)
    )
    return list((await session.execute(query)).scalars())


async def newest_change(session: AsyncSession) -> int:
    """The count of all changes of models so far."""
    newest: int | None = (await session.execute(select(func.max(_MODEL.c.change_sequence)))).scalar_one()
    return newest or 0


async def newest_create_time(session: AsyncSession) -> datetime | None:
    """When the newest version entered the catalog; None while there is none."""
    newest: datetime | None = (await session.execute(select(func.max(_VERSION.c.create_time)))).scalar_one()
    return newest


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _NAMES_PER_STATEMENT):
        yield names[start : start + _NAMES_PER_STATEMENT]
