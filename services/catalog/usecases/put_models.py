"""Bring models in line with what their source says; the same again changes nothing and announces nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import msgspec
from sqlalchemy import insert

from chassis.database import Database, UnitOfWork
from chassis.ids import new_uid
from services.catalog.domain.lifecycle import Dates, Stage, stage_at
from services.catalog.domain.names import MODEL
from services.catalog.domain.records import Lifecycle, ModelRecord, VersionRecord, digest_of, identity_of
from services.catalog.events.published import version_published
from services.catalog.storage.queries.models import models as stored_models
from services.catalog.storage.queries.models import newest_change, versions
from services.catalog.storage.queries.pages import table, take_turns
from services.catalog.storage.tables import LicenseTextRow, ModelRow, ModelTextRow, VersionRow
from services.catalog.usecases.lifecycle import announce, stage_of

# Kept in columns, in rows of their own, or not at all.
_NOT_FACTS = {
    "publisher",
    "model",
    "collection",
    "display_name",
    "license",
    "usability",
    "usability_detail",
    "card",
    "notes",
    "evaluation",
    "versions",
}
_NOT_VERSION_FACTS = {"version", "position", "artifacts", "serving", "lifecycle"}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one model was not taken."""

    model: str
    field: str
    reason: str


@dataclass(slots=True)
class PutResult:
    """What became of the records of one batch, by model name."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    version_count: int = 0


async def put_models(
    uow: UnitOfWork, database: Database, now: datetime, source: str, records: Sequence[ModelRecord]
) -> PutResult:
    """Store what one source says of some models, each wholly or not at all.

    Args:
        source: Who says it: `content`, `import` or the id of a configured source. A model belongs to the source that
            brought it.
        records: Each model once. Versions that are stored and not among them stay; where the newest of them is older
            than the newest stored one, the model's own facts stay too.
    """
    await take_turns(uow, database)
    names = {MODEL.format(publisher=record.publisher, model=record.model): record for record in records}
    known = await stored_models(uow.session, list(names))
    result = PutResult()
    batch = _Batch(now, source, await newest_change(uow.session))
    to_put: list[tuple[str, ModelRecord, ModelRow | None, str]] = []
    for name, record in names.items():
        row, digest = known.get(name), digest_of(record)
        if row is not None and row.digest == digest and not row.withdrawn:
            result.unchanged.append(name)
        elif row is not None and row.source != source:
            result.refused.append(
                Refusal(
                    name, "publisher", f"{name!r} came from {row.source!r}, which alone changes it; rename one of them"
                )
            )
        else:
            to_put.append((name, record, row, digest))
    version_names = [
        f"{name}/versions/{version.version}" for name, record, _, _ in to_put for version in record.versions
    ]
    known_versions = await versions(uow.session, version_names)
    newest = await versions(uow.session, [row.latest_version for _, _, row, _ in to_put if row is not None])
    for name, record, row, digest in to_put:
        refusal = _refusal(name, record, known_versions, now)
        if refusal is not None:
            result.refused.append(refusal)
            continue
        before = newest[row.latest_version] if row is not None else None
        batch.put(uow, name, record, row, before, digest, known_versions)
        (result.added if row is None else result.changed).append(name)
    result.version_count = len(batch.versions)
    await batch.write(uow, database)
    return result


class _Batch:
    """Rows to be written together."""

    def __init__(self, now: datetime, source: str, change_sequence: int) -> None:
        self._now = now
        self._source = source
        self._change_sequence = change_sequence
        self.models: list[dict[str, Any]] = []
        self.texts: list[dict[str, Any]] = []
        self.licenses: dict[str, str] = {}
        self.versions: list[dict[str, Any]] = []

    def put(
        self,
        uow: UnitOfWork,
        name: str,
        record: ModelRecord,
        row: ModelRow | None,
        newest: VersionRow | None,
        digest: str,
        known: dict[str, VersionRow],
    ) -> None:
        last = record.versions[-1]
        self._change_sequence += 1
        if row is None or newest is None or last.position >= newest.position:
            self._put_model(uow, name, record, row, digest)
        else:
            row.change_sequence = self._change_sequence
            uow.session.add(row)
        for version in record.versions:
            version_name = f"{name}/versions/{version.version}"
            stored = known.get(version_name)
            if stored is None:
                self._add_version(uow, name, version_name, version)
            else:
                _change_version(uow, stored, version, self._now)

    def _put_model(self, uow: UnitOfWork, name: str, record: ModelRecord, row: ModelRow | None, digest: str) -> None:
        facts = msgspec.to_builtins(record)
        text = record.license.text
        license_digest = hashlib.sha256(text.encode()).hexdigest() if text else ""
        if text:
            self.licenses[license_digest] = text
        values: dict[str, Any] = {
            "source": self._source,
            "publisher": record.publisher,
            "collection": record.collection,
            "display_name": record.display_name,
            "license_id": record.license.id,
            "license_digest": license_digest,
            "usability": record.usability,
            "usability_detail": record.usability_detail,
            "facts": {key: value for key, value in facts.items() if key not in _NOT_FACTS}
            | {"license_url": record.license.url, "acceptance_required": record.license.acceptance_required},
            "latest_version": f"{name}/versions/{record.versions[-1].version}",
            "withdrawn": False,
            "digest": digest,
            "change_sequence": self._change_sequence,
            "update_time": self._now,
        }
        texts = {"card": record.card, "notes": record.notes, "evaluation": record.evaluation}
        if row is None:
            self.models.append({"name": name, "uid": new_uid(), "project_uid": "", "create_time": self._now, **values})
        else:
            for column, value in values.items():
                setattr(row, column, value)
            uow.session.add(row)
        self.texts.append({"model": name, **texts})

    def _add_version(self, uow: UnitOfWork, model: str, name: str, version: VersionRecord) -> None:
        days = _days(version.lifecycle)
        facts = msgspec.to_builtins(version)
        uid = new_uid()
        stage = int(_stage(version.lifecycle, self._now))
        self.versions.append(
            {
                "name": name,
                "uid": uid,
                "model": model,
                "position": version.position,
                "identity": identity_of(version),
                "artifacts": _artifacts(version),
                "serving": version.serving,
                "facts": {key: value for key, value in facts.items() if key not in _NOT_VERSION_FACTS},
                "stage": stage,
                "event_sequence": 1,
                "create_time": self._now,
                **days,
            }
        )
        uow.emit(version_published(name, uid, stage, 1, self._now))

    async def write(self, uow: UnitOfWork, database: Database) -> None:
        """Write what was collected."""
        if self.licenses:
            texts = table(LicenseTextRow)
            rows = [{"digest": digest, "text": text} for digest, text in self.licenses.items()]
            await database.insert_ignoring(uow, texts, rows, returning=[texts.c.digest])
        if self.models:
            await uow.session.execute(insert(table(ModelRow)), self.models)
        if self.texts:
            await _replace_texts(uow, database, self.texts)
        if self.versions:
            await uow.session.execute(insert(table(VersionRow)), self.versions)


async def _replace_texts(uow: UnitOfWork, database: Database, rows: list[dict[str, Any]]) -> None:
    texts = table(ModelTextRow)
    added = await database.insert_ignoring(uow, texts, rows, returning=[texts.c.model])
    new = {row.model for row in added}
    for row in rows:
        if row["model"] not in new:
            await uow.session.merge(ModelTextRow(**row))


def _refusal(name: str, record: ModelRecord, known: dict[str, VersionRow], now: datetime) -> Refusal | None:
    """Why a record cannot be stored beside what is there."""
    for version in record.versions:
        stored = known.get(f"{name}/versions/{version.version}")
        if stored is None:
            continue
        if stored.identity != identity_of(version) and not _completes(stored, version):
            return Refusal(
                name,
                "versions",
                f"version {stored.name!r} has changed since it was loaded: its files, how it is served and what its "
                "publisher wrote are immutable; add a new version instead",
            )
        before, after = stage_of(stored, now), _stage(version.lifecycle, now)
        if after < before and _days(version.lifecycle) != _stored_days(stored):
            return Refusal(
                name,
                "lifecycle",
                f"version {stored.name!r} is {before.name}; its new dates would bring it back to {after.name}: others "
                "have acted on the stage it has",
            )
    return None


def _completes(row: VersionRow, version: VersionRecord) -> bool:
    """Whether a version that could not be deployed is now known in full: nobody holds another form of it.

    So are those behind a gate once it opens, and those that a newer release has an engine for.
    """
    if row.serving is not None or version.provider is not None or version.origin is not None:
        return False
    files = [(file["name"], file["sha256"], file["size_bytes"]) for file in row.artifacts]
    same_files = files == [(file["name"], file["sha256"], file["size_bytes"]) for file in _artifacts(version)]
    return not files or same_files


def _change_version(uow: UnitOfWork, row: VersionRow, version: VersionRecord, now: datetime) -> None:
    facts = msgspec.to_builtins(version)
    # Only where the files lie may change: a wheel that was reinstalled elsewhere holds the same bytes.
    row.identity = identity_of(version)
    row.artifacts = _artifacts(version)
    row.serving = version.serving
    row.position = version.position
    row.facts = {key: value for key, value in facts.items() if key not in _NOT_VERSION_FACTS}
    days = _days(version.lifecycle)
    if days != _stored_days(row):
        for column, value in days.items():
            setattr(row, column, value)
        announce(uow, row, _stage(version.lifecycle, now), now)
    uow.session.add(row)


def _artifacts(version: VersionRecord) -> list[dict[str, Any]]:
    return [
        {"name": file.name, "sha256": file.sha256, "size_bytes": file.size_bytes, "uri": file.uri}
        for file in sorted(version.artifacts, key=lambda file: file.name)
    ]


def _stage(lifecycle: Lifecycle, now: datetime) -> Stage:
    return stage_at(Dates(lifecycle.preview, lifecycle.legacy, lifecycle.deprecation, lifecycle.retirement), now)


def _days(lifecycle: Lifecycle) -> dict[str, Any]:
    """A lifecycle as columns."""
    return {
        "preview": lifecycle.preview,
        "legacy_date": _iso(lifecycle.legacy),
        "deprecation_date": _iso(lifecycle.deprecation),
        "retirement_date": _iso(lifecycle.retirement),
        "fine_tune_deprecation_date": _iso(lifecycle.fine_tune_deprecation),
        "fine_tune_retirement_date": _iso(lifecycle.fine_tune_retirement),
        "replacement": lifecycle.replacement,
    }


def _stored_days(row: VersionRow) -> dict[str, Any]:
    return {column: getattr(row, column) for column in _days(Lifecycle())}


def _iso(day: date | None) -> str:
    return day.isoformat() if day else ""
