"""Take published assets, and give them back."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.clock import Clock
from chassis.database import Database, UnitOfWork
from services.catalog.domain.errors import ModelNotFound
from services.catalog.domain.names import MODEL
from services.catalog.sources.azureml.format import AssetRefused, Limits, ParsedAsset, parse_asset
from services.catalog.sources.azureml.records import COLLECTION, publisher_name, record_of, slug
from services.catalog.storage.queries import models as stored
from services.catalog.storage.queries.pages import table, take_turns
from services.catalog.storage.queries.publishers import publisher_ids
from services.catalog.storage.tables import CollectionRow, PublisherRow
from services.catalog.usecases.prepare_models import PreparedModel, prepare_models
from services.catalog.usecases.put_models import PutResult, put_models

SOURCE = "import"
_EXPORT_ASSETS_PER_PAGE = 200
_COLLECTION = {
    "id": COLLECTION,
    "display_name": "Azure ML assets",
    "kind": "IMPORTED",
    "description": (
        "Imported from the public azureml-assets format as published. Their publishers support them, this platform "
        "does not."
    ),
}


@dataclass(frozen=True, slots=True)
class Incoming:
    """An asset as it came: what the caller calls it, and its JSON."""

    path: str
    document: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one asset was not taken."""

    path: str
    field: str
    reason: str


@dataclass(slots=True)
class ImportResult:
    """What became of the assets of one batch."""

    imported: int = 0
    unchanged: int = 0
    failed: list[Failure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Read:
    """An asset that is right, and its place in the batch."""

    place: int
    path: str
    parsed: ParsedAsset


@dataclass(frozen=True, slots=True)
class _Round:
    """Assets of different versions, and the models they make; `publishers` are ids by what they are called."""

    read: Sequence[_Read]
    publishers: dict[str, str]
    models: list[PreparedModel]


async def import_assets(database: Database, clock: Clock, incoming: Sequence[Incoming], limits: Limits) -> ImportResult:
    """Store what is right of some assets, in one transaction; the same again changes nothing.

    All that takes processor time is done in a thread before writers take turns, so that one call works it out while
    another one writes.
    """
    read, failures = await asyncio.to_thread(_read_all, incoming, limits)
    async with database.reader() as session:
        publishers = await _publishers(session, read)
    rounds = await asyncio.to_thread(lambda: [_prepared(distinct, publishers) for distinct in _rounds(read)])
    result = ImportResult()
    async with database.unit_of_work() as uow:
        # Before the first publisher is written: two imports that each hold one the other wants would wait for ever.
        await take_turns(uow, database)
        await _ensure_collection(uow, database)
        for one in rounds:
            publishers = await _put_publishers(uow, database, one.read)
            # A publisher of such a name may have come meanwhile, with another id.
            current = one if publishers.items() <= one.publishers.items() else _prepared(one.read, publishers)
            failures |= await _put(uow, database, clock.now(), current, result)
    result.failed = [failures[place] for place in sorted(failures)]
    return result


async def export_assets(database: Database, model: str) -> AsyncIterator[list[tuple[str, bytes]]]:
    """Version names and JSON of what was imported, in pages ordered by version name.

    Args:
        model: Resource name of the only model to give back; empty for all.

    Raises:
        ModelNotFound: there is no such model.
    """
    after = ""
    if model:
        async with database.reader() as session:
            if await stored.model(session, model) is None:
                raise ModelNotFound(f"model {model!r} does not exist; `modelyard models` shows those that do")
    while True:
        async with database.reader() as session:
            rows = await stored.origins_page(session, model, after, _EXPORT_ASSETS_PER_PAGE)
        if rows:
            yield [(name, zlib.decompress(document)) for name, document in rows]
        if len(rows) < _EXPORT_ASSETS_PER_PAGE:
            return
        after, _ = rows[-1]


def _read_all(incoming: Sequence[Incoming], limits: Limits) -> tuple[list[_Read], dict[int, Failure]]:
    read: list[_Read] = []
    failures: dict[int, Failure] = {}
    for place, asset in enumerate(incoming):
        try:
            read.append(_Read(place, asset.path, parse_asset(asset.document, limits)))
        except AssetRefused as refused:
            failures[place] = Failure(asset.path, refused.field, refused.reason)
    return read, failures


def _rounds(read: Sequence[_Read]) -> list[list[_Read]]:
    """Split a batch so that no round holds one version twice: the second is compared with the first, once stored."""
    rounds: list[list[_Read]] = []
    seen: dict[tuple[str, str, int], int] = {}
    for one in read:
        asset = one.parsed.asset
        key = (slug(publisher_name(asset)), asset.name, asset.version)
        number = seen.get(key, 0)
        seen[key] = number + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(one)
    return rounds


def _prepared(read: Sequence[_Read], publishers: dict[str, str]) -> _Round:
    """What a round stores, as far as it needs no turn."""
    versions = _by_model(read, publishers)
    records = [record_of(name.split("/")[1], [one.parsed for one in group]) for name, group in versions.items()]
    return _Round(read, publishers, prepare_models(records))


def _by_model(read: Sequence[_Read], publishers: dict[str, str]) -> dict[str, list[_Read]]:
    """Assets by the name of the model they are versions of, oldest first."""
    versions: dict[str, list[_Read]] = {}
    for one in sorted(read, key=lambda one: one.parsed.asset.version):
        asset = one.parsed.asset
        name = MODEL.format(publisher=publishers[publisher_name(asset)], model=asset.name)
        versions.setdefault(name, []).append(one)
    return versions


async def _put(
    uow: UnitOfWork, database: Database, now: datetime, current: _Round, result: ImportResult
) -> dict[int, Failure]:
    """Store a round, count what became of it, and return what failed by place."""
    put = await put_models(uow, database, now, SOURCE, current.models)
    versions = _by_model(current.read, current.publishers)
    failures: dict[int, Failure] = {}
    for refusal in put.refused:
        for one in versions.pop(refusal.model):
            failures[one.place] = Failure(one.path, refusal.field, refusal.reason)
    for name, group in versions.items():
        imported = _imported(name, [one.parsed.asset.version for one in group], put)
        result.imported += imported
        result.unchanged += len(group) - imported
    return failures


def _imported(name: str, versions: Sequence[int], put: PutResult) -> int:
    """How many of a model's assets are new or different; the model's own facts are those of its newest."""
    touched = {version for version in versions if f"{name}/versions/{version}" in put.versions}
    if name in put.added or name in put.changed:
        touched.add(versions[-1])
    return len(touched)


async def _publishers(session: AsyncSession, read: Sequence[_Read]) -> dict[str, str]:
    """Ids of publishers by what they are called, as they are or will be.

    A name belongs to the publisher that is called so, in any case, else to the one whose id is its slug.
    """
    slugs = _slugs(read)
    return slugs | await publisher_ids(session, slugs)


async def _put_publishers(uow: UnitOfWork, database: Database, read: Sequence[_Read]) -> dict[str, str]:
    """The same for a round; those that are not there are made."""
    slugs = _slugs(read)
    known = await publisher_ids(uow.session, slugs)
    made = {one: {"id": one, "display_name": name, "website": ""} for name, one in slugs.items() if name not in known}
    if made:
        publishers = table(PublisherRow)
        await database.insert_ignoring(uow, publishers, list(made.values()), returning=[publishers.c.id])
    return slugs | known


def _slugs(read: Sequence[_Read]) -> dict[str, str]:
    return {name: slug(name) for name in sorted({publisher_name(one.parsed.asset) for one in read})}


async def _ensure_collection(uow: UnitOfWork, database: Database) -> None:
    collections = table(CollectionRow)
    await database.insert_ignoring(uow, collections, [_COLLECTION], returning=[collections.c.id])
