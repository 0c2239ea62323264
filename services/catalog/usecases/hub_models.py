"""Take a hub's models into the catalog."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.clock import Clock
from chassis.database import Database, UnitOfWork
from services.catalog.domain.errors import HubContentChanged, ModelOfOtherSource
from services.catalog.domain.names import MODEL
from services.catalog.domain.records import ArtifactRecord, ModelRecord, VersionRecord
from services.catalog.sources.hub.hub import Hub
from services.catalog.sources.hub.records import Described
from services.catalog.storage.queries.hub import versions_of
from services.catalog.storage.queries.pages import take_turns
from services.catalog.storage.tables import PublisherRow, VersionRow
from services.catalog.usecases.put_models import put_models

# Who brings models that were imported one by one.
SOURCE = "hub"


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a model: "ADDED", "CHANGED" or "UNCHANGED"."""

    model: str
    version: str
    outcome: str
    described: Described


async def import_hub_model(
    database: Database, clock: Clock, hub: Hub, model: str, revision: str = "", file: str = ""
) -> Imported:
    """Take one model in at one commit; the hub is read before the transaction.

    Raises:
        HubModelNotEligible, HubModelNotFound, HubUnavailable: see `Hub.describe`.
        HubContentChanged: the hub gives other files for a commit than it did before.
        ModelOfOtherSource: the name is taken.
    """
    described = await hub.describe(model, revision, file)
    async with database.unit_of_work() as uow:
        await take_turns(uow, database)
        record = await as_known(uow.session, described.record)
        await put_publisher(uow, hub, record.publisher)
        result = await put_models(uow, database, clock.now(), SOURCE, [record])
    for refusal in result.refused:
        if refusal.field == "publisher":
            raise ModelOfOtherSource(refusal.reason)
        raise HubContentChanged(refusal.reason)
    outcome = "ADDED" if result.added else "CHANGED" if result.changed else "UNCHANGED"
    name = MODEL.format(publisher=record.publisher, model=record.model)
    return Imported(name, f"{name}/versions/{record.versions[0].version}", outcome, described)


async def as_known(session: AsyncSession, record: ModelRecord) -> ModelRecord:
    """The record with what is decided once for a version: how it is served, and its place among the others.

    Both are this platform's choice, so a release that chooses otherwise changes no version that is there. Two commits of
    one second have places of their own.
    """
    name = MODEL.format(publisher=record.publisher, model=record.model)
    known = {row.name: row for row in await versions_of(session, name)}
    versions = tuple(
        _as_known(version, known.get(f"{name}/versions/{version.version}"), known) for version in record.versions
    )
    return msgspec.structs.replace(record, versions=versions)


def _as_known(version: VersionRecord, row: VersionRow | None, known: dict[str, VersionRow]) -> VersionRecord:
    if row is not None and row.artifacts and not version.artifacts:
        # Its gate has closed again: what is known of the files stays known.
        files = tuple(ArtifactRecord(**file) for file in row.artifacts)
        return msgspec.structs.replace(version, position=row.position, artifacts=files, serving=row.serving)
    if row is not None:
        return msgspec.structs.replace(version, position=row.position, serving=row.serving or version.serving)
    taken = {row.position for row in known.values()}
    position = version.position
    while position in taken:
        position += 1
    return msgspec.structs.replace(version, position=position)


async def put_publisher(uow: UnitOfWork, hub: Hub, publisher: str) -> None:
    """An organisation of the hub as a publisher, where none has its name yet."""
    if await uow.session.get(PublisherRow, publisher) is None:
        page = f"{hub.source.endpoint}/{publisher}"
        uow.session.add(PublisherRow(id=publisher, display_name=publisher, website=page))
