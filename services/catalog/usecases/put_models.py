"""Bring models in line with what their source says; the same again changes nothing and announces nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import insert

from chassis.database import Database, UnitOfWork
from chassis.ids import new_uid
from services.catalog.domain.lifecycle import Notice
from services.catalog.domain.replacements import replacement_cycles
from services.catalog.events.published import versions_published
from services.catalog.storage.queries.models import forget_tasks, newest_change, replacements, texts_of, versions
from services.catalog.storage.queries.models import models as stored_models
from services.catalog.storage.queries.pages import table, take_turns
from services.catalog.storage.tables import (
    LicenseTextRow,
    ModelRow,
    ModelTaskRow,
    ModelTextRow,
    VersionOriginRow,
    VersionRow,
)
from services.catalog.usecases.lifecycle import stage_of
from services.catalog.usecases.notice import refused_for_notice
from services.catalog.usecases.prepare_models import PreparedModel, PreparedVersion
from services.catalog.usecases.version_rows import (
    change_version,
    completes,
    lifecycle_dates,
    lifecycle_stage,
    stored_days,
)

# A message of the broker has room for twice as many of the longest names.
_VERSIONS_PER_EVENT = 1000
# Field of refusals that an override lifts.
NOTICE_FIELD = "lifecycle.notice"
# A chain of replacements is followed this far.
_REPLACEMENTS_MAX = 32


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
    # Names of the versions that were added or changed.
    versions: set[str] = field(default_factory=set)
    version_count: int = 0


@dataclass(frozen=True, slots=True)
class _Known:
    """What is stored of the models of one batch."""

    models: dict[str, ModelRow]
    texts: dict[str, ModelTextRow]
    versions: dict[str, VersionRow]


async def put_models(
    uow: UnitOfWork,
    database: Database,
    now: datetime,
    source: str,
    prepared: Sequence[PreparedModel],
    *,
    notice: Notice | None = None,
) -> PutResult:
    """Store what one source says of some models, each wholly or not at all.

    Args:
        source: Who says it: `content`, `import` or the id of a configured source. A model belongs to the source that
            brought it.
        prepared: Each model once. Versions that are stored and not among them stay; where the newest of them is older
            than the newest stored one, the model's own facts stay too.
        notice: The least notice that new dates of a stored version give to those who use it; None takes dates as they
            were published elsewhere.
    """
    await take_turns(uow, database)
    rows = await stored_models(uow.session, [model.name for model in prepared])
    result = PutResult()
    to_put: dict[str, PreparedModel] = {}
    for model in prepared:
        name, row = model.name, rows.get(model.name)
        if row is not None and row.digest == model.digest and row.withdrawn == model.record.archived:
            result.unchanged.append(name)
        elif row is not None and row.source != source:
            result.refused.append(
                Refusal(
                    name, "publisher", f"{name!r} came from {row.source!r}, which alone changes it; rename one of them"
                )
            )
        else:
            to_put[name] = model
    known = await _load(uow, rows, to_put)
    early = {} if notice is None else await _ends_early(uow, to_put, known, now, notice)
    circles = await _circles(uow, to_put)
    batch = _Batch(now, source, await newest_change(uow.session), known)
    for name, model in to_put.items():
        refusal = circles.get(name) or _refusal(model, known.versions, now) or early.get(name)
        if refusal is not None:
            result.refused.append(refusal)
        elif not batch.put(uow, model):
            result.unchanged.append(name)
        else:
            (result.changed if name in rows else result.added).append(name)
    result.versions = batch.version_names
    result.version_count = len(batch.versions)
    await batch.write(uow, database)
    return result


async def _load(uow: UnitOfWork, rows: dict[str, ModelRow], to_put: dict[str, PreparedModel]) -> _Known:
    # What is not there has no versions either.
    stored = [rows[name] for name in to_put if name in rows]
    version_names = [version.name for row in stored for version in to_put[row.name].versions]
    return _Known(
        models=rows,
        texts=await texts_of(uow.session, [row.uid for row in stored]),
        versions=await versions(uow.session, [*version_names, *(row.latest_version for row in stored)]),
    )


async def _ends_early(
    uow: UnitOfWork, to_put: dict[str, PreparedModel], known: _Known, now: datetime, notice: Notice
) -> dict[str, Refusal]:
    """Refusals of records whose versions would end with less notice than is promised, without an override."""
    wanted = {
        version.name: lifecycle_dates(version.record.lifecycle)
        for model in to_put.values()
        for version in model.versions
    }
    return {
        (model := name.partition("/versions/")[0]): Refusal(model, NOTICE_FIELD, reason)
        for name, reason in (await refused_for_notice(uow, wanted, known.versions, now, notice)).items()
    }


async def _circles(uow: UnitOfWork, to_put: dict[str, PreparedModel]) -> dict[str, Refusal]:
    """Refusals of records that would send those who follow their replacement in a circle."""
    replaced_by = {
        name: by for name, model in to_put.items() if (by := model.record.versions[-1].lifecycle.replacement)
    }
    unknown = set(replaced_by.values()) - set(to_put)
    for _ in range(_REPLACEMENTS_MAX):
        if not unknown:
            break
        found = await replacements(uow.session, sorted(unknown))
        replaced_by |= found
        unknown = set(found.values()) - set(replaced_by) - set(to_put)
    return {
        name: Refusal(name, "lifecycle.replacement", f"replacements go in a circle: {' → '.join(circle)}")
        for circle in replacement_cycles(replaced_by)
        for name in circle
    }


class _Batch:
    """Rows to be written together."""

    def __init__(self, now: datetime, source: str, change_sequence: int, known: _Known) -> None:
        self._now = now
        self._source = source
        self._change_sequence = change_sequence
        self._known = known
        self.models: list[dict[str, Any]] = []
        self.texts: list[dict[str, Any]] = []
        self.tasks: list[dict[str, Any]] = []
        self.changed: list[str] = []
        self.licenses: dict[str, str] = {}
        self.versions: list[dict[str, Any]] = []
        self.origins: list[dict[str, Any]] = []
        self.published: list[tuple[str, str, int]] = []
        self.version_names: set[str] = set()

    def put(self, uow: UnitOfWork, model: PreparedModel) -> bool:
        """Collect a model; False where what is stored says the same, though in other versions at once."""
        row, sequence = self._known.models.get(model.name), self._change_sequence + 1
        changed = self._put_versions(uow, model)
        if row is None:
            self._add_model(model, sequence)
        else:
            newest = self._is_newest(row, model)
            changed |= newest and self._change_model(uow, row, model)
            if not changed:
                return False
            # Of an older version the digest would be that of a model which is not stored.
            row.digest = model.digest if newest else row.digest
            row.change_sequence, row.update_time = sequence, self._now
            uow.session.add(row)
        self._change_sequence = sequence
        return True

    def _is_newest(self, row: ModelRow, model: PreparedModel) -> bool:
        newest = self._known.versions.get(row.latest_version)
        return newest is None or model.record.versions[-1].position >= newest.position

    def _add_model(self, model: PreparedModel, sequence: int) -> None:
        uid = new_uid()
        self.models.append(
            {
                "name": model.name,
                "uid": uid,
                "source": self._source,
                "project_uid": "",
                "digest": model.digest,
                "change_sequence": sequence,
                "first_sequence": sequence,
                "create_time": self._now,
                "update_time": self._now,
                **model.values,
            }
        )
        self.texts.append({"model_uid": uid, **model.texts})
        self._add_what_is_named(model)

    def _add_what_is_named(self, model: PreparedModel) -> None:
        """The tasks that it is listed by, and the text of its licence."""
        self.tasks += [{"task": task, "model": model.name} for task in model.record.tasks]
        if text := model.record.license.text:
            self.licenses[model.values["license_digest"]] = text

    def _change_model(self, uow: UnitOfWork, row: ModelRow, model: PreparedModel) -> bool:
        values, texts = dict(model.values), model.texts
        if row.provider_source:
            # A configured source has its credential, whatever its own source says.
            del values["usability"], values["usability_detail"]
        stored = self._known.texts.get(row.uid)
        same_texts = stored is not None and all(getattr(stored, column) == text for column, text in texts.items())
        if same_texts and all(getattr(row, column) == value for column, value in values.items()):
            return False
        for column, value in values.items():
            setattr(row, column, value)
        if stored is None:
            self.texts.append({"model_uid": row.uid, **texts})
        else:
            for column, text in texts.items():
                setattr(stored, column, text)
            uow.session.add(stored)
        self.changed.append(model.name)
        self._add_what_is_named(model)
        return True

    def _put_versions(self, uow: UnitOfWork, model: PreparedModel) -> bool:
        before = len(self.version_names)
        for version in model.versions:
            stored = self._known.versions.get(version.name)
            if stored is None:
                self._add_version(model.name, version)
            elif not change_version(uow, stored, version, self._now):
                continue
            self.version_names.add(version.name)
        return len(self.version_names) > before

    def _add_version(self, model: str, version: PreparedVersion) -> None:
        uid = new_uid()
        stage = int(lifecycle_stage(version.record.lifecycle, self._now))
        self.versions.append(
            {
                "name": version.name,
                "uid": uid,
                "model": model,
                "identity": version.identity,
                "stage": stage,
                "event_sequence": 1,
                "create_time": self._now,
                **version.values,
                **version.days,
            }
        )
        if version.origin is not None:
            self.origins.append({"version_uid": uid, "document": version.origin})
        self.published.append((version.name, uid, stage))

    async def write(self, uow: UnitOfWork, database: Database) -> None:
        """Write what was collected."""
        if self.licenses:
            texts = table(LicenseTextRow)
            rows = [{"digest": digest, "text": text} for digest, text in self.licenses.items()]
            await database.insert_ignoring(uow, texts, rows, returning=[texts.c.digest])
        if self.changed:
            await forget_tasks(uow.session, self.changed)
        for row_class, rows in (
            (ModelRow, self.models),
            (ModelTextRow, self.texts),
            (ModelTaskRow, self.tasks),
            (VersionRow, self.versions),
            (VersionOriginRow, self.origins),
        ):
            if rows:
                await uow.session.execute(insert(table(row_class)), rows)
        for start in range(0, len(self.published), _VERSIONS_PER_EVENT):
            uow.emit(versions_published(self.published[start : start + _VERSIONS_PER_EVENT], self._now))


def _refusal(model: PreparedModel, known: dict[str, VersionRow], now: datetime) -> Refusal | None:
    """Why a model cannot be stored beside what is there."""
    for version in model.versions:
        stored = known.get(version.name)
        if stored is None:
            continue
        if stored.identity != version.identity and not completes(stored, version):
            return Refusal(
                model.name,
                "versions",
                f"version {stored.name!r} has changed since it was loaded: its files, how it is served and what its "
                "publisher wrote are immutable; add a new version instead",
            )
        before, after = stage_of(stored, now), lifecycle_stage(version.record.lifecycle, now)
        if after < before and version.days != stored_days(stored):
            return Refusal(
                model.name,
                "lifecycle",
                f"version {stored.name!r} is {before.name}; its new dates would bring it back to {after.name}: others "
                "have acted on the stage it has",
            )
    return None
