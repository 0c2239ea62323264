"""Sources, their runs, and the models they brought."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import and_, delete, exists, func, or_, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.database import Database, UnitOfWork
from services.catalog.domain.sources import SyncState
from services.catalog.storage.queries.models import of_model, tasks_of
from services.catalog.storage.queries.pages import table
from services.catalog.storage.tables import (
    ModelRow,
    ModelTaskRow,
    ModelTextRow,
    ScoreRow,
    SeenDeploymentRow,
    SourceModelRow,
    SourceRow,
    SyncRunRow,
    VersionOriginRow,
    VersionRow,
)

_SOURCE, _RUN, _LISTED = table(SourceRow), table(SyncRunRow), table(SourceModelRow)
_SEEN, _MODEL, _VERSION = table(SeenDeploymentRow), table(ModelRow), table(VersionRow)
# Names in one statement; databases bound the parameters of one.
_NAMES_PER_STATEMENT = 500


async def source(session: AsyncSession, source_id: str) -> SourceRow | None:
    """One source by its id."""
    return (await session.execute(select(SourceRow).where(_SOURCE.c.id == source_id))).scalar_one_or_none()


async def source_locked(session: AsyncSession, database: Database, source_id: str) -> SourceRow | None:
    """One source that is about to change."""
    query = database.locking(select(SourceRow).where(_SOURCE.c.id == source_id))
    return (await session.execute(query)).scalar_one_or_none()


async def existing_sources(session: AsyncSession, source_ids: Sequence[str]) -> set[str]:
    """Those of these sources that exist."""
    return set((await session.execute(select(_SOURCE.c.id).where(_SOURCE.c.id.in_(source_ids)))).scalars())


async def sources_page(session: AsyncSession, after: str, limit: int) -> list[SourceRow]:
    """Sources after an id, by id."""
    query = select(SourceRow).where(_SOURCE.c.id > after).order_by(_SOURCE.c.id).limit(limit)
    return list((await session.execute(query)).scalars())


async def due_source_locked(session: AsyncSession, database: Database, now: datetime) -> SourceRow | None:
    """A source that nobody syncs now and that somebody should: its time has come, or a run of it is not ended."""
    waits = exists().where(_RUN.c.source == _SOURCE.c.id, _RUN.c.state < int(SyncState.SUCCEEDED))
    query = (
        select(SourceRow)
        .where(
            or_(_SOURCE.c.lease_until.is_(None), _SOURCE.c.lease_until <= now),
            or_(_SOURCE.c.next_sync_time <= now, waits),
        )
        .order_by(_SOURCE.c.id)
        .limit(1)
    )
    return (await session.execute(database.locking(query))).scalar_one_or_none()


async def leased_by(session: AsyncSession, owner: str) -> list[SourceRow]:
    """Sources that a process holds."""
    return list((await session.execute(select(SourceRow).where(_SOURCE.c.lease_owner == owner))).scalars())


async def model_counts(session: AsyncSession, source_ids: Sequence[str]) -> dict[str, int]:
    """How many models each source holds that are not withdrawn."""
    query = (
        select(_LISTED.c.source, func.count().label("models"))
        .join(_MODEL, _MODEL.c.name == _LISTED.c.model)
        .where(_LISTED.c.source.in_(source_ids), ~_MODEL.c.withdrawn)
        .group_by(_LISTED.c.source)
    )
    return {row.source: row.models for row in await session.execute(query)}


async def run(session: AsyncSession, source_id: str, uid: str) -> SyncRunRow | None:
    """One run of a source."""
    query = select(SyncRunRow).where(_RUN.c.source == source_id, _RUN.c.uid == uid)
    return (await session.execute(query)).scalar_one_or_none()


async def open_run(session: AsyncSession, source_id: str) -> SyncRunRow | None:
    """The run of a source that is not ended."""
    query = select(SyncRunRow).where(_RUN.c.source == source_id, _RUN.c.state < int(SyncState.SUCCEEDED))
    return (await session.execute(query)).scalar_one_or_none()


async def last_runs(session: AsyncSession, source_ids: Sequence[str]) -> dict[str, SyncRunRow]:
    """The newest run of each source."""
    newest = (
        select(_RUN.c.source, func.max(_RUN.c.number).label("number"))
        .where(_RUN.c.source.in_(source_ids))
        .group_by(_RUN.c.source)
        .subquery()
    )
    query = select(SyncRunRow).join(newest, and_(_RUN.c.source == newest.c.source, _RUN.c.number == newest.c.number))
    return {row.source: row for row in (await session.execute(query)).scalars()}


async def runs_page(session: AsyncSession, source_id: str, before: int, limit: int) -> list[SyncRunRow]:
    """Runs of a source, newest first, older than a number."""
    query = (
        select(SyncRunRow)
        .where(_RUN.c.source == source_id, _RUN.c.number < before)
        .order_by(_RUN.c.number.desc())
        .limit(limit)
    )
    return list((await session.execute(query)).scalars())


async def forget_runs(uow: UnitOfWork, source_id: str, below: int) -> None:
    """Delete the runs of a source below a number."""
    await uow.session.execute(delete(SyncRunRow).where(_RUN.c.source == source_id, _RUN.c.number < below))


async def mark_listed(
    uow: UnitOfWork, database: Database, source_id: str, taken: Sequence[str], refused: Sequence[str], run_number: int
) -> None:
    """Note that a run listed these models; one that was refused is noted only where it was taken before."""
    rows = [{"source": source_id, "model": name, "run_number": run_number} for name in taken]
    if rows:
        await database.insert_ignoring(uow, _LISTED, rows, returning=[_LISTED.c.model])
    for part in _parts([*taken, *refused]):
        await uow.session.execute(
            update(SourceModelRow)
            .where(_LISTED.c.source == source_id, _LISTED.c.model.in_(part))
            .values(run_number=run_number)
        )


async def forget_listed(uow: UnitOfWork, source_id: str, names: Sequence[str]) -> None:
    """Forget that a source listed these models."""
    await uow.session.execute(delete(SourceModelRow).where(_LISTED.c.source == source_id, _LISTED.c.model.in_(names)))


async def missing_models(session: AsyncSession, source_id: str, run_number: int, limit: int) -> list[str]:
    """Models that a source listed before a run and not in it, and that are not withdrawn yet, in name order."""
    query = (
        select(_LISTED.c.model)
        .join(_MODEL, _MODEL.c.name == _LISTED.c.model)
        .where(
            _LISTED.c.source == source_id,
            _LISTED.c.run_number < run_number,
            or_(and_(_MODEL.c.source == source_id, ~_MODEL.c.withdrawn), _MODEL.c.provider_source == source_id),
        )
        .order_by(_LISTED.c.model)
        .limit(limit)
    )
    return list((await session.execute(query)).scalars())


async def removable_models(session: AsyncSession, withdrawn_before: datetime, limit: int) -> list[str]:
    """Models of configured sources that were withdrawn before a moment and have no living deployment."""
    deployed = exists().where(_SEEN.c.model == _MODEL.c.name, _SEEN.c.living)
    listed = exists().where(_LISTED.c.model == _MODEL.c.name, _LISTED.c.source == _MODEL.c.source)
    query = (
        select(_MODEL.c.name)
        .where(_MODEL.c.withdrawn, _MODEL.c.update_time < withdrawn_before, listed, ~deployed)
        .order_by(_MODEL.c.name)
        .limit(limit)
    )
    return list((await session.execute(query)).scalars())


async def remove_models(uow: UnitOfWork, names: Sequence[str]) -> None:
    """Delete models with their versions, texts, and who listed them."""
    uids = select(_MODEL.c.uid).where(_MODEL.c.name.in_(names))
    versions = select(_VERSION.c.uid).join(_MODEL, and_(*of_model(_MODEL.c.name))).where(_MODEL.c.name.in_(names))
    await uow.session.execute(delete(ModelTextRow).where(table(ModelTextRow).c.model_uid.in_(uids)))
    await uow.session.execute(delete(VersionOriginRow).where(table(VersionOriginRow).c.version_uid.in_(versions)))
    await uow.session.execute(delete(VersionRow).where(_VERSION.c.uid.in_(versions)))
    await uow.session.execute(delete(ModelTaskRow).where(*tasks_of(names)))
    for row_class, column in (
        (SourceModelRow, _LISTED.c.model),
        (ScoreRow, table(ScoreRow).c.model),
        (ModelRow, _MODEL.c.name),
    ):
        await uow.session.execute(delete(row_class).where(column.in_(names)))


async def listed_models(session: AsyncSession, source_id: str, limit: int) -> list[str]:
    """Models that a source holds: brought by it or answered through it, and not withdrawn."""
    query = (
        select(_LISTED.c.model)
        .join(_MODEL, _MODEL.c.name == _LISTED.c.model)
        .where(_LISTED.c.source == source_id, ~_MODEL.c.withdrawn)
        .order_by(_LISTED.c.model)
        .limit(limit)
    )
    return list((await session.execute(query)).scalars())


async def seen_deployment(session: AsyncSession, deployment_uid: str) -> SeenDeploymentRow | None:
    """A deployment as it was seen last."""
    query = select(SeenDeploymentRow).where(_SEEN.c.deployment_uid == deployment_uid)
    return (await session.execute(query)).scalar_one_or_none()


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _NAMES_PER_STATEMENT):
        yield names[start : start + _NAMES_PER_STATEMENT]
