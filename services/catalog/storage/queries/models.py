"""Models, versions and their long texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from modelyard.catalog.v1 import catalog_pb2
from sqlalchemy import ColumnElement, Select, bindparam, delete, func, select, union_all
from sqlmodel.ext.asyncio.session import AsyncSession

from services.catalog.domain.lifecycle import Stage
from services.catalog.storage.queries.pages import table
from services.catalog.storage.tables import (
    LicenseTextRow,
    ModelRow,
    ModelTaskRow,
    ModelTextRow,
    VersionOriginRow,
    VersionRow,
)

_MODEL, _VERSION = table(ModelRow), table(VersionRow)
# Names in one statement; databases bound the parameters of one.
_NAMES_PER_STATEMENT = 500
_TASKS = [name.removeprefix("TASK_") for name in catalog_pb2.Task.DESCRIPTOR.values_by_name]


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


@dataclass(frozen=True, slots=True)
class Narrowed:
    """Which of the models that everybody sees; empty fields narrow nothing."""

    publisher: str = ""
    collection: str = ""
    usability: str = ""
    # Name of a task without its prefix.
    task: str = ""


async def listed_models(session: AsyncSession, narrowed: Narrowed, after: str, limit: int) -> list[ModelRow]:
    """Models that everybody sees, after a name and in the order of names.

    Their names are looked for first: those stand in an index with all that a list is narrowed by, so that the rows of
    models that are left out are not read. A page at the end costs what the first one does.
    """
    columns, tasks = _MODEL.c, table(ModelTaskRow).c
    name = tasks.model if narrowed.task else columns.name
    names = select(name).where(name > after, columns.project_uid == "").order_by(name).limit(limit)
    if narrowed.task:
        names = names.join(_MODEL, columns.name == name).where(tasks.task == narrowed.task)
    if narrowed.publisher:
        # A publisher's names begin alike; "0" follows "/".
        names = names.where(
            name > f"publishers/{narrowed.publisher}/models/", name < f"publishers/{narrowed.publisher}/models0"
        )
    if narrowed.collection:
        names = names.where(columns.collection == narrowed.collection)
    if narrowed.usability:
        names = names.where(columns.usability == narrowed.usability)
    query = select(ModelRow).where(columns.name.in_(names)).order_by(columns.name)
    return list((await session.execute(query)).scalars())


async def forget_tasks(session: AsyncSession, names: Sequence[str]) -> None:
    """Take some models out of the lists by task."""
    for part in _parts(names):
        await session.execute(delete(table(ModelTaskRow)).where(*tasks_of(part)))


def tasks_of(names: Sequence[str]) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """The rows that list some models by task, by their key: an index by model would cost every import more."""
    columns = table(ModelTaskRow).c
    return columns.task.in_(_TASKS), columns.model.in_(names)


@dataclass(frozen=True, slots=True)
class WholeModel:
    """A model with its newest version and its texts; None and empty where there are none."""

    model: ModelRow
    version: VersionRow | None
    text: ModelTextRow | None
    license_text: str


# Built once, and one statement: for a card that is looked at, making statements and handing them over would cost more
# than reading.
_WHOLE_MODEL = (
    select(ModelRow, VersionRow, ModelTextRow, func.coalesce(table(LicenseTextRow).c.text, ""))
    .outerjoin(VersionRow, _VERSION.c.name == _MODEL.c.latest_version)
    .outerjoin(ModelTextRow, table(ModelTextRow).c.model_uid == _MODEL.c.uid)
    .outerjoin(LicenseTextRow, table(LicenseTextRow).c.digest == _MODEL.c.license_digest)
    .where(_MODEL.c.name == bindparam("name"))
)


async def whole_model(session: AsyncSession, name: str) -> WholeModel | None:
    """All there is of a model."""
    row = (await session.execute(_WHOLE_MODEL, {"name": name})).one_or_none()
    return None if row is None else WholeModel(*row)


async def texts_of(session: AsyncSession, uids: Sequence[str]) -> dict[str, ModelTextRow]:
    """The long texts of models, by the model's uid."""
    found: dict[str, ModelTextRow] = {}
    for part in _parts(uids):
        rows = (await session.execute(select(ModelTextRow).where(table(ModelTextRow).c.model_uid.in_(part)))).scalars()
        found |= {row.model_uid: row for row in rows}
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


async def origins_page(session: AsyncSession, model_name: str, after: str, limit: int) -> list[tuple[str, bytes]]:
    """Versions as their publishers wrote them, deflated JSON by version name, after one; of one model, or of all that
    everybody sees."""
    origins = table(VersionOriginRow)
    query = (
        select(_VERSION.c.name, origins.c.document)
        .join(origins, origins.c.version_uid == _VERSION.c.uid)
        .join(_MODEL, _MODEL.c.name == _VERSION.c.model)
        .where(_VERSION.c.name > after, _MODEL.c.project_uid == "")
        .order_by(_VERSION.c.name)
        .limit(limit)
    )
    if model_name:
        query = query.where(*of_model(model_name))
    return [(name, document) for name, document in await session.execute(query)]


async def versions_of(session: AsyncSession, model_name: str) -> list[VersionRow]:
    """Every version of a model, oldest first."""
    query = select(VersionRow).where(*of_model(model_name)).order_by(_VERSION.c.position)
    return list((await session.execute(query)).scalars())


async def versions_page(session: AsyncSession, model_name: str, before: int, limit: int) -> list[VersionRow]:
    """Versions of a model, newest first, older than a position."""
    query = (
        select(VersionRow)
        .where(*of_model(model_name), _VERSION.c.position < before)
        .order_by(_VERSION.c.position.desc())
        .limit(limit)
    )
    return list((await session.execute(query)).scalars())


def of_model(name: str | ColumnElement[str]) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """The versions of a model by their key, which begins with the model's name; "0" follows "/"."""
    return _VERSION.c.name > name + "/versions/", _VERSION.c.name < name + "/versions0"


async def versions_due(session: AsyncSession, today: date) -> list[VersionRow]:
    """Versions whose announced stage is behind what their dates say."""
    day = today.isoformat()

    def due(column: str, stage: Stage) -> Select[tuple[str]]:
        # Each by the index of its own date: together they would read every version there is.
        begins = _VERSION.c[column]
        return select(_VERSION.c.name).where(begins != "", begins <= day, _VERSION.c.stage < int(stage))

    names = union_all(
        due("legacy_date", Stage.LEGACY),
        due("deprecation_date", Stage.DEPRECATED),
        due("retirement_date", Stage.RETIRED),
    )
    query = select(VersionRow).where(_VERSION.c.name.in_(names)).order_by(_VERSION.c.name)
    return list((await session.execute(query)).scalars())


async def newest_change(session: AsyncSession) -> int:
    """The count of all changes of models so far."""
    newest: int | None = (await session.execute(select(func.max(_MODEL.c.change_sequence)))).scalar_one()
    return newest or 0


async def newest_create_time(session: AsyncSession) -> datetime | None:
    """When the newest version entered the catalog; None while there is none."""
    # Uids grow with time, and have an index.
    query = select(_VERSION.c.create_time).order_by(_VERSION.c.uid.desc()).limit(1)
    newest: datetime | None = (await session.execute(query)).scalar_one_or_none()
    return newest


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _NAMES_PER_STATEMENT):
        yield names[start : start + _NAMES_PER_STATEMENT]
