"""Bring the rows in line with the content files; a second run changes nothing and says nothing."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from chassis.clock import Clock
from chassis.database import DATABASE_ERRORS, Database, UnitOfWork
from chassis.ids import new_uid
from chassis.names import ResourcePattern
from chassis.telemetry import get_logger
from services.catalog.domain.errors import ContentInvalid
from services.catalog.domain.lifecycle import Dates, Stage, midnight, stage_at
from services.catalog.events.published import lifecycle_changed, version_published
from services.catalog.sources.content import Artifact, Content, Model, Serving, Version, license_text, read_content
from services.catalog.sources.wheels import ArtifactMissing, locate, sha256_of
from services.catalog.storage import queries
from services.catalog.storage.tables import (
    CollectionRow,
    InstanceTypeRow,
    ModelRow,
    PublisherRow,
    VersionRow,
)

log = get_logger(__name__)

MODEL = ResourcePattern("publishers/{publisher}/models/{model}")
VERSION = ResourcePattern("publishers/{publisher}/models/{model}/versions/{version}")
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Files:
    """A version's artifacts as they are stored, with where they lie; and why one is not here (empty when all are)."""

    artifacts: list[dict[str, Any]]
    missing: str


# By model name and version.
Resolved = dict[tuple[str, str], Files]


async def sync_content(database: Database, clock: Clock, folder: Path) -> int:
    """Load the content folder; return how many versions were added.

    Weights are read once to check their digest, off the event loop and before the transaction.

    Raises:
        ContentInvalid: naming the file, the field and the value; nothing is changed.
    """
    content = read_content(folder)
    resolved = await asyncio.to_thread(_resolve, content)
    added = 0
    async with database.unit_of_work() as uow:
        await queries.take_turns(uow, database)
        for collection in content.collections:
            await uow.session.merge(CollectionRow(**collection.model_dump()))
        for publisher in content.publishers:
            await uow.session.merge(PublisherRow(**publisher.model_dump()))
        for shape in content.instance_types:
            row = InstanceTypeRow(
                id=shape.id,
                vcpus=shape.vcpus,
                memory_bytes=round(shape.memory_gib * _GIB),
                gpu_count=shape.gpu_count,
                gpu_model=shape.gpu_model,
                disk_bytes=round(shape.disk_gib * _GIB),
                provider=shape.provider,
                source=shape.source.model_dump(mode="json"),
            )
            await uow.session.merge(row)
        for model in content.models:
            added += await _put_model(uow, clock.now(), folder, model, resolved)
    return added


async def announce_stages(database: Database, clock: Clock) -> int:
    """Announce every version whose stage has changed with the time; return how many."""
    now = clock.now()
    changed = 0
    async with database.unit_of_work() as uow:
        await queries.take_turns(uow, database)
        for row in await queries.all_versions(uow.session):
            stage = stage_of(row, now)
            if stage > row.stage:
                _announce(uow, row, stage, now)
                changed += 1
    return changed


async def watch_dates(database: Database, clock: Clock, check_s: float) -> None:
    """Announce stages for ever; while the database is away their day is announced when it is back."""
    while True:
        try:
            await announce_stages(database, clock)
        except DATABASE_ERRORS as error:
            log.warning("lifecycle dates wait", error=str(error), retry_s=check_s)
        await asyncio.sleep(check_s)


def dates_of(row: VersionRow) -> Dates:
    """A version's stage dates as they are stored."""
    return Dates(row.preview, _day(row.legacy_date), _day(row.deprecation_date), _day(row.retirement_date))


def stage_of(row: VersionRow, now: datetime) -> Stage:
    """The stage of a version; what was announced is never taken back."""
    return max(Stage(row.stage), stage_at(dates_of(row), now))


def retire_time(row: VersionRow) -> datetime | None:
    """From when a version answers nothing any more."""
    day = _day(row.retirement_date)
    return None if day is None else midnight(day)


def _day(text: str) -> date | None:
    return date.fromisoformat(text) if text else None


def _announce(uow: UnitOfWork, row: VersionRow, stage: Stage, now: datetime) -> None:
    row.stage = int(stage)
    row.event_sequence += 1
    uow.session.add(row)
    uow.emit(lifecycle_changed(row.name, row.uid, row.stage, retire_time(row), row.event_sequence, now))


def _resolve(content: Content) -> Resolved:
    resolved: Resolved = {}
    for model in content.models:
        name = MODEL.format(publisher=model.publisher, model=model.id)
        for version in model.versions:
            files = _files(version.artifacts)
            if files.missing:
                log.warning("a model cannot run here", model=name, why=files.missing)
            resolved[name, version.version] = files
    return resolved


def _files(artifacts: Sequence[Artifact]) -> Files:
    found = []
    missing = ""
    for artifact in artifacts:
        uri = ""
        try:
            uri = _checked(artifact).as_uri()
        except ArtifactMissing as why:
            missing = missing or str(why)
        found.append({"name": artifact.name, "sha256": artifact.sha256, "size_bytes": artifact.size_bytes, "uri": uri})
    return Files(sorted(found, key=lambda stored: str(stored["name"])), missing)


def _checked(artifact: Artifact) -> Path:
    path = locate(artifact)
    digest = sha256_of(path)
    if digest != artifact.sha256:
        raise ArtifactMissing(
            f"{artifact.path!r} has digest {digest}; {artifact.sha256} was expected: reinstall the wheel"
        )
    return path


async def _put_model(uow: UnitOfWork, now: datetime, folder: Path, model: Model, resolved: Resolved) -> int:
    name = MODEL.format(publisher=model.publisher, model=model.id)
    known = await queries.model(uow.session, name)
    usability, detail = _usability(model, [resolved[name, version.version] for version in model.versions])
    facts: dict[str, Any] = {
        "publisher": model.publisher,
        "collection": model.collection,
        "display_name": model.display_name,
        "summary": model.summary,
        "card": model.card,
        "license_id": model.license,
        "license_text": license_text(folder, model.license),
        "tasks": list(model.tasks),
        "deployment_options": list(model.deployment_options),
        "usability": usability,
        "usability_detail": detail,
        "languages": model.languages,
        "tags": model.tags,
        "sources": [source.model_dump(mode="json") for source in model.sources],
        "parameter_count": model.parameter_count,
        "context_tokens": model.context_tokens,
        "latest_version": f"{name}/versions/{model.versions[-1].version}",
    }
    etag = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    if known is None:
        uow.session.add(ModelRow(name=name, uid=new_uid(), create_time=now, etag=etag, **facts))
        await uow.session.flush()
    elif known.etag != etag:
        for field, value in facts.items():
            setattr(known, field, value)
        known.etag = etag
        uow.session.add(known)
    added = 0
    for position, version in enumerate(model.versions, start=1):
        added += await _put_version(uow, now, name, position, version, resolved[name, version.version])
    return added


def _usability(model: Model, versions: Sequence[Files]) -> tuple[str, str]:
    if model.usability is not None:
        return model.usability, model.usability_detail
    missing = [files.missing for files in versions if files.missing]
    return ("NEEDS_HARDWARE", missing[0]) if missing else ("RUNS_HERE", "")


async def _put_version(
    uow: UnitOfWork,
    now: datetime,
    model_name: str,
    position: int,
    version: Version,
    files: Files,
) -> int:
    name = f"{model_name}/versions/{version.version}"
    lifecycle = version.lifecycle
    days: dict[str, Any] = {
        "preview": lifecycle.preview,
        "legacy_date": lifecycle.legacy.isoformat() if lifecycle.legacy else "",
        "deprecation_date": lifecycle.deprecation.isoformat() if lifecycle.deprecation else "",
        "retirement_date": lifecycle.retirement.isoformat() if lifecycle.retirement else "",
    }
    serving = version.serving.model_dump() if version.serving else None
    row = await queries.version(uow.session, name)
    if row is None:
        stage = stage_at(Dates(lifecycle.preview, lifecycle.legacy, lifecycle.deprecation, lifecycle.retirement), now)
        row = VersionRow(
            name=name,
            uid=new_uid(),
            model=model_name,
            position=position,
            artifacts=files.artifacts,
            serving=serving,
            stage=int(stage),
            event_sequence=1,
            create_time=now,
            **days,
        )
        uow.session.add(row)
        uow.emit(version_published(name, row.uid, row.stage, 1, now))
        return 1
    _check_unchanged(row, files.artifacts, serving)
    # Only where the files lie may change: a wheel that was reinstalled elsewhere holds the same bytes.
    row.artifacts = files.artifacts
    row.position = position
    if any(getattr(row, field) != value for field, value in days.items()):
        before = stage_of(row, now)
        for field, value in days.items():
            setattr(row, field, value)
        after = stage_at(dates_of(row), now)
        if after < before:
            raise ContentInvalid(
                f"version {row.name!r} is {before.name}; its new dates would bring it back to {after.name}: "
                "others have acted on the stage it has"
            )
        _announce(uow, row, after, now)
    uow.session.add(row)
    return 0


def _check_unchanged(row: VersionRow, artifacts: list[dict[str, Any]], serving: dict[str, Any] | None) -> None:
    """A version is immutable: another file or other serving facts need a new version."""

    def contents(listed: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
        return [(artifact["name"], artifact["sha256"], artifact["size_bytes"]) for artifact in listed]

    # What an older release did not know yet has its default.
    known = Serving.model_validate(row.serving).model_dump() if row.serving else None
    if contents(row.artifacts) != contents(artifacts) or known != serving:
        raise ContentInvalid(f"version {row.name!r} has changed since it was loaded; add a new version instead")
