"""Models in the order they changed: what a projection reads to stay in step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlmodel.ext.asyncio.session import AsyncSession

from services.catalog.domain.lifecycle import Stage
from services.catalog.storage.queries.pages import table
from services.catalog.storage.tables import (
    CollectionRow,
    ModelRow,
    ModelTextRow,
    PublisherRow,
    SeenPriceRow,
    VersionRow,
)

_MODEL, _TEXT, _VERSION, _PRICE = table(ModelRow), table(ModelTextRow), table(VersionRow), table(SeenPriceRow)
# What counts for a model that has no version yet.
_VERSION_DEFAULTS = {
    "preview": False,
    "legacy_date": "",
    "deprecation_date": "",
    "retirement_date": "",
    "stage": int(Stage.GA),
}


@dataclass(frozen=True, slots=True)
class ChangedModel:
    """A model as it is now, with what search finds it by; `stage` and the dates are its newest version's.

    `first_sequence` is the number of its first change.
    """

    change_sequence: int
    first_sequence: int
    name: str
    project_uid: str
    publisher: str
    collection: str
    display_name: str
    license_id: str
    usability: str
    facts: dict[str, Any]
    withdrawn: bool
    create_time: datetime
    card: str
    preview: bool
    legacy_date: str
    deprecation_date: str
    retirement_date: str
    stage: int
    input_price: int | None
    output_price: int | None


async def changed_models(session: AsyncSession, after: int, limit: int) -> list[ChangedModel]:
    """Models whose last change is later than number `after`, in the order of their changes.

    Writers take turns from before they number a change until it is committed, so numbers become visible in their order:
    whoever has read up to one has missed none below it.
    """
    columns = _MODEL.c
    query = (
        select(
            columns.change_sequence,
            columns.first_sequence,
            columns.name,
            columns.project_uid,
            columns.publisher,
            columns.collection,
            columns.display_name,
            columns.license_id,
            columns.usability,
            columns.facts,
            columns.withdrawn,
            columns.create_time,
            func.coalesce(_TEXT.c.card, "").label("card"),
            *(func.coalesce(_VERSION.c[name], value).label(name) for name, value in _VERSION_DEFAULTS.items()),
            _PRICE.c.input_nanos.label("input_price"),
            _PRICE.c.output_nanos.label("output_price"),
        )
        .outerjoin(_VERSION, _VERSION.c.name == columns.latest_version)
        .outerjoin(_TEXT, _TEXT.c.model_uid == columns.uid)
        .outerjoin(_PRICE, _PRICE.c.model == columns.name)
        .where(columns.change_sequence > after)
        .order_by(columns.change_sequence)
        .limit(limit)
    )
    # The columns are selected in the order of the fields.
    return [ChangedModel(*row) for row in await session.execute(query)]


async def first_uid(session: AsyncSession) -> str:
    """Uid of the oldest model of this database, which is hardly ever removed; empty while there is none."""
    return (await session.execute(select(func.min(_MODEL.c.uid)))).scalar_one() or ""


async def listed_count(session: AsyncSession, up_to: int) -> int:
    """How many models that search shows have their last change at or before a number."""
    query = select(func.count()).where(_MODEL.c.change_sequence <= up_to, ~_MODEL.c.withdrawn)
    return int((await session.execute(query)).scalar_one())


async def collection_rows(session: AsyncSession) -> list[CollectionRow]:
    """All collections; there are few."""
    return list((await session.execute(select(CollectionRow))).scalars())


async def publisher_names(session: AsyncSession, ids: set[str]) -> dict[str, str]:
    """What publishers are called, by id."""
    columns = table(PublisherRow).c
    query = select(columns.id, columns.display_name).where(columns.id.in_(sorted(ids)))
    return {row.id: row.display_name for row in await session.execute(query)}


async def cards(session: AsyncSession, uids: Sequence[str]) -> dict[str, str]:
    """The cards of some models, by the model's uid; at most a page of them."""
    query = select(_TEXT.c.model_uid, _TEXT.c.card).where(_TEXT.c.model_uid.in_(uids))
    return {row.model_uid: row.card for row in await session.execute(query)}
