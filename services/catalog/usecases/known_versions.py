"""What is decided once for a version and stays, whatever its source says later."""

from __future__ import annotations

import msgspec
from sqlmodel.ext.asyncio.session import AsyncSession

from services.catalog.domain.names import MODEL
from services.catalog.domain.records import ArtifactRecord, ModelRecord, VersionRecord
from services.catalog.storage.queries.models import versions_of
from services.catalog.storage.tables import VersionRow


async def as_known(session: AsyncSession, record: ModelRecord) -> ModelRecord:
    """The record with how its versions are served, and their places among the others, as they were stored first.

    Both are this platform's choice, so a release that chooses otherwise changes no version that is there. Two versions
    that came at one moment have places of their own.
    """
    name = MODEL.format(publisher=record.publisher, model=record.model)
    known = {row.name: row for row in await versions_of(session, name)}
    versions = tuple(
        _as_known(version, known.get(f"{name}/versions/{version.version}"), known) for version in record.versions
    )
    return msgspec.structs.replace(record, versions=versions)


def _as_known(version: VersionRecord, row: VersionRow | None, known: dict[str, VersionRow]) -> VersionRecord:
    if row is not None and row.artifacts and not version.artifacts:
        # What gave its files away has closed: what is known of them stays known.
        files = tuple(ArtifactRecord(**file) for file in row.artifacts)
        return msgspec.structs.replace(version, position=row.position, artifacts=files, serving=row.serving)
    if row is not None:
        return msgspec.structs.replace(version, position=row.position, serving=row.serving or version.serving)
    taken = {other.position for other in known.values()}
    position = version.position
    while position in taken:
        position += 1
    return msgspec.structs.replace(version, position=position)
