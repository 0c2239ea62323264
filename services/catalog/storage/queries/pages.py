"""Lists by key, and the lock that writers of models take."""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import Table, func, select, text
from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.database import Database, UnitOfWork
from services.catalog.storage.tables import InstanceTypeRow, ModelRow, VersionRow

RowType = TypeVar("RowType", bound=SQLModel)


def table(row_class: Any) -> Table:
    """The SQLAlchemy table of a row class."""
    found: Table = row_class.__table__
    return found


async def take_turns(uow: UnitOfWork, database: Database) -> None:
    """Wait until nobody else changes models, and keep others from it until the transaction ends; readers go on."""
    if not database.is_sqlite:
        await uow.session.execute(text(f"lock table {table(VersionRow).name} in share row exclusive mode"))


async def page_by_key(
    session: AsyncSession, row_class: type[RowType], key: str, after: str, limit: int, **filters: str
) -> list[RowType]:
    """Rows after a key, in key order, where the given columns have the given values (empty for any)."""
    columns = table(row_class).c
    query = select(row_class).where(columns[key] > after).order_by(columns[key]).limit(limit)
    for name, wanted in filters.items():
        if wanted:
            query = query.where(columns[name] == wanted)
    return list((await session.execute(query)).scalars())


async def models_per_collection(session: AsyncSession) -> dict[str, int]:
    """How many models everybody sees in each collection."""
    models = table(ModelRow)
    query = (
        select(models.c.collection, func.count().label("models"))
        .where(models.c.project_uid == "")
        .group_by(models.c.collection)
    )
    return {row.collection: row.models for row in await session.execute(query)}


async def instance_types_page(
    session: AsyncSession, after: str, limit: int, available_only: bool
) -> list[InstanceTypeRow]:
    """Instance types after an id, by id; only those a compute provider offers on request."""
    columns = table(InstanceTypeRow).c
    query = select(InstanceTypeRow).where(columns.id > after).order_by(columns.id).limit(limit)
    if available_only:
        query = query.where(columns.provider != "")
    return list((await session.execute(query)).scalars())


async def all_instance_types(session: AsyncSession) -> list[InstanceTypeRow]:
    """Every instance type, by id; content files bound how many there are."""
    return list((await session.execute(select(InstanceTypeRow).order_by(table(InstanceTypeRow).c.id))).scalars())


async def instance_type(session: AsyncSession, type_id: str) -> InstanceTypeRow | None:
    """One instance type by its id."""
    query = select(InstanceTypeRow).where(table(InstanceTypeRow).c.id == type_id)
    return (await session.execute(query)).scalar_one_or_none()
