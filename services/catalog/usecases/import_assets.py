"""Take published assets, and give them back."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

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
    """An asset that is right, its place in the batch, and what its publisher is called."""

    place: int
    path: str
    parsed: ParsedAsset
    publisher: str


@dataclass(frozen=True, slots=True)
class _Round:
    """Assets of different versions by the name of the model they make, oldest first; and those models."""

    versions: dict[str, list[_Read]]
    models: list[PreparedModel]


async def import_assets(database: Database, clock: Clock, incoming: Sequence[Incoming], limits: Limits) -> ImportResult:
    """Store what is right of some assets, in one transaction; the same again changes nothing.

    All that takes processor time is done in a thread before writers take turns, so that one call works it out while
    another one writes.
    """
    read, failures = await asyncio.to_thread(_read_all, incoming, limits)
    wanted = {one.publisher: slug(one.publisher) for one in read}
    async with database.reader() as session:
        known = await publisher_ids(session, wanted)
        has_collection = await session.get(CollectionRow, COLLECTION) is not None
    publishers = wanted | known
    rounds = await asyncio.to_thread(_prepared, read, publishers)
    result = ImportResult()
    async with database.unit_of_work() as uow:
        # Before the first publisher is written: two imports that each hold one the other wants would wait for ever.
        await take_turns(uow, database)
        if not has_collection:
            await _ensure_collection(uow, database)
        # Publishers are never removed, so only those that were not there can have come meanwhile, and with another id.
        if missing := {name: one for name, one in wanted.items() if name not in known}:
            made = known | await _put_publishers(uow, database, missing)
            if made != publishers:
                rounds = _prepared(read, made)
        for one in rounds:
            failures |= await _put(uow, database, clock.now(), one, result)
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
            parsed = parse_asset(asset.document, limits)
            read.append(_Read(place, asset.path, parsed, publisher_name(parsed.asset)))
        except AssetRefused as refused:
            failures[place] = Failure(asset.path, refused.field, refused.reason)
    return read, failures


def _prepared(read: Sequence[_Read], publishers: dict[str, str]) -> list[_Round]:
    """What is stored, as far as it needs no turn; publishers are ids by what they are called.

    No round holds one version twice: the second is compared with the first, once stored.
    """
    rounds: list[list[_Read]] = []
    seen: dict[tuple[str, str, int], int] = {}
    for one in read:
        asset = one.parsed.asset
        key = (publishers[one.publisher], asset.name, asset.version)
        number = seen.get(key, 0)
        seen[key] = number + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(one)
    return [_round(distinct, publishers) for distinct in rounds]


def _round(read: Sequence[_Read], publishers: dict[str, str]) -> _Round:
    versions: dict[str, list[_Read]] = {}
    for one in sorted(read, key=lambda one: one.parsed.asset.version):
        name = MODEL.format(publisher=publishers[one.publisher], model=one.parsed.asset.name)
        versions.setdefault(name, []).append(one)
    records = [record_of(name.split("/")[1], [one.parsed for one in group]) for name, group in versions.items()]
    return _Round(versions, prepare_models(records))


async def _put(
    uow: UnitOfWork, database: Database, now: datetime, current: _Round, result: ImportResult
) -> dict[int, Failure]:
    """Store a round, count what became of it, and return what failed by place."""
    put = await put_models(uow, database, now, SOURCE, current.models)
    refused = {refusal.model: refusal for refusal in put.refused}
    failures: dict[int, Failure] = {}
    for name, group in current.versions.items():
        if refusal := refused.get(name):
            failures |= {one.place: Failure(one.path, refusal.field, refusal.reason) for one in group}
            continue
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


async def _put_publishers(uow: UnitOfWork, database: Database, wanted: dict[str, str]) -> dict[str, str]:
    """Ids of publishers by what they are called; those that are not there are made with the ids that are wanted."""
    known = await publisher_ids(uow.session, wanted)
    made = {one: {"id": one, "display_name": name, "website": ""} for name, one in wanted.items() if name not in known}
    if made:
        publishers = table(PublisherRow)
        await database.insert_ignoring(uow, publishers, list(made.values()), returning=[publishers.c.id])
    return wanted | known


async def _ensure_collection(uow: UnitOfWork, database: Database) -> None:
    collections = table(CollectionRow)
    await database.insert_ignoring(uow, collections, [_COLLECTION], returning=[collections.c.id])
