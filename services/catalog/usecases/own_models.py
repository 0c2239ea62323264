"""A project's own models: registered once, labelled, archived and opened again; their files and facts never change."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from modelyard.catalog.v1 import catalog_pb2, registry_pb2

from chassis.clock import Clock, ms_from_time
from chassis.database import Database, UnitOfWork
from chassis.errors import EtagMismatch, InvalidArgument
from chassis.ids import new_uid
from chassis.rpc.idempotency import answered_before, remember_answer
from services.catalog.artifacts.sources import STORE
from services.catalog.domain.lifecycle import Stage
from services.catalog.domain.names import OWN_MODEL, OWN_VERSION
from services.catalog.domain.own.describe import CONFIGURATION, ServingLimits, describe, wanted_texts
from services.catalog.domain.own.errors import ModelFilesInvalid, ModelVersionExists, QuotaExceeded, UploadNotStored
from services.catalog.domain.own.files import OwnFile, Served
from services.catalog.domain.own.rules import (
    COLLECTION,
    OwnLimits,
    check_model_id,
    check_version_id,
    check_words,
    next_version_id,
    with_labels,
)
from services.catalog.domain.own.triton_repository import TritonConfig
from services.catalog.domain.paths import check_file_name
from services.catalog.domain.records import ArtifactRecord, VersionRecord, identity_of
from services.catalog.events.published import versions_published
from services.catalog.storage.queries import models as stored
from services.catalog.storage.queries import registry
from services.catalog.storage.queries.pages import table, take_turns
from services.catalog.storage.tables import (
    ContentRow,
    LicenseTextRow,
    ModelRow,
    ModelTextRow,
    VersionContentRow,
    VersionRow,
)
from services.catalog.usecases.find import find_model, find_version

# Small files whose content is read at registration; larger ones are no configuration.
_TEXT_BYTES_MAX = 1 << 20
_CARD_CHARACTERS_MAX = 256 << 10
_LICENSE_FILES = ("LICENSE", "LICENSE.txt")
# Names that an engine has in the folder the files are linked into.
_RESERVED = ("engines", "model.py", CONFIGURATION)

ReadSmall = Callable[[str, int], Awaitable[bytes]]
ToProto = Callable[[VersionRow, ModelRow], catalog_pb2.ModelVersion]


@dataclass(frozen=True, slots=True)
class _Registered:
    """What goes into the rows, worked out before the transaction."""

    contents: dict[str, ContentRow]
    files: tuple[OwnFile, ...]
    served: Served
    card: str
    license_text: str


async def register_version(
    database: Database,
    clock: Clock,
    limits: OwnLimits,
    serving_limits: ServingLimits,
    *,
    principal: str,
    project_uid: str,
    project: str,
    request: registry_pb2.RegisterModelVersionRequest,
    read_small: ReadSmall,
    to_proto: ToProto,
) -> catalog_pb2.ModelVersion:
    """Make an immutable version of files that the project has uploaded.

    Args:
        read_small: Reads a whole content of the store, by digest and size.

    Raises:
        InvalidArgument: an id, a word or a file's name that is not taken.
        UploadNotStored: a content that the project has not uploaded.
        ModelFilesInvalid, ArchitectureNotSupported: see `describe`.
        ModelVersionExists: the version's id is taken.
        QuotaExceeded: as many models, versions or files as there may be.
    """
    check_model_id(request.model_id)
    check_words(display_name=request.display_name, summary=request.summary, license_id=request.license_id)
    names = _checked_names(request.files, limits)
    if request.request_id:
        # A repeat gets its answer also where what it named has changed since.
        async with database.unit_of_work() as uow:
            before = await answered_before(uow, database, principal, request, catalog_pb2.ModelVersion)
        if before is not None:
            return before
    registered = await _read(database, project_uid, names, dict(request.parameters), serving_limits, read_small)
    async with database.unit_of_work() as uow:
        await take_turns(uow, database)
        before = await answered_before(uow, database, principal, request, catalog_pb2.ModelVersion)
        if before is not None:
            return before
        now = clock.now()
        # Held against the sweep until the version holds them.
        await registry.touch_owned(uow.session, project_uid, list(registered.contents), now)
        owned = await registry.owned_contents(uow.session, project_uid, list(registered.contents))
        _check_owned(names, owned)
        model = await _model_row(uow, database, limits, project_uid, project, request, registered, now)
        version = await _version_row(uow, limits, model, request, registered, principal, now)
        answer = to_proto(version, model)
        await remember_answer(uow, database, clock, principal, request, answer)
        return answer


def _checked_names(files: Sequence[registry_pb2.UploadedFile], limits: OwnLimits) -> dict[str, str]:
    """Digest by file name.

    Raises:
        InvalidArgument: no file, too many, a name that stands twice or is not taken.
    """
    if not 1 <= len(files) <= limits.files_max:
        raise InvalidArgument(f"{len(files)} files; 1 to {limits.files_max} make a version", field="files")
    names: dict[str, str] = {}
    for file in files:
        check_file_name(file.name, "files")
        if file.name.partition("/")[0] in _RESERVED:
            raise InvalidArgument(f"file name {file.name!r} is the platform's own; rename it", field="files")
        if file.name in names:
            raise InvalidArgument(f"file name {file.name!r} stands twice", field="files")
        names[file.name] = file.sha256
    if both := [name for name in names if any(other.startswith(f"{name}/") for other in names)]:
        raise InvalidArgument(f"{both[0]!r} is a file and a folder", field="files")
    return names


async def _read(
    database: Database,
    project_uid: str,
    names: Mapping[str, str],
    parameters: Mapping[str, str],
    serving_limits: ServingLimits,
    read_small: ReadSmall,
) -> _Registered:
    async with database.reader() as session:
        contents = await registry.owned_contents(session, project_uid, sorted(set(names.values())))
    _check_owned(names, contents)
    files = tuple(
        OwnFile(name, sha256, contents[sha256].size_bytes, contents[sha256].format, contents[sha256].facts)
        for name, sha256 in sorted(names.items())
    )
    texts = {}
    for name in wanted_texts(files):
        content = contents[names[name]]
        if content.size_bytes > _TEXT_BYTES_MAX:
            raise ModelFilesInvalid(
                f"{name} has {content.size_bytes} bytes; at most {_TEXT_BYTES_MAX} are read", field="files"
            )
        texts[name] = await read_small(content.sha256, content.size_bytes)
    served = describe(files, texts, _triton_configs(texts), parameters, serving_limits)
    card = _words(texts, ("README.md",))
    if len(card) > _CARD_CHARACTERS_MAX:
        raise ModelFilesInvalid(
            f"README.md has {len(card)} characters; a card has at most {_CARD_CHARACTERS_MAX}", field="files"
        )
    return _Registered(contents, files, served, card, _words(texts, _LICENSE_FILES))


def _triton_configs(texts: dict[str, bytes]) -> dict[str, TritonConfig]:
    written = {name: text for name, text in texts.items() if name.rpartition("/")[2] == CONFIGURATION}
    if not written:
        return {}
    # Not before there is one: Triton's messages come with numpy, 12 MB that few catalogs need.
    from services.catalog.artifacts.triton_config import read_triton_config

    return {name: read_triton_config(name, text) for name, text in written.items()}


def _words(texts: Mapping[str, bytes], names: Sequence[str]) -> str:
    return next((texts[name].decode("utf-8-sig", errors="replace") for name in names if name in texts), "")


def _check_owned(names: Mapping[str, str], contents: Mapping[str, ContentRow]) -> None:
    for name, sha256 in names.items():
        if sha256 not in contents:
            raise UploadNotStored(
                f"{name!r} names the content {sha256[:64]!r}, which this project has not uploaded; upload it first",
                field="files",
            )


async def _model_row(
    uow: UnitOfWork,
    database: Database,
    limits: OwnLimits,
    project_uid: str,
    project: str,
    request: registry_pb2.RegisterModelVersionRequest,
    registered: _Registered,
    now: datetime,
) -> ModelRow:
    """The model, made with its first version; words that are given anew replace what it was called before."""
    name = OWN_MODEL.format(project=project, model=request.model_id)
    row = await stored.model(uow.session, name)
    served = registered.served
    if row is None:
        count = await registry.own_model_count(uow.session, project_uid)
        if count >= limits.models_max:
            raise QuotaExceeded(
                f"project {project!r} has {count} models of its own; {limits.models_max} are allowed "
                "(MODELYARD_CATALOG_PROJECT_MODELS_MAX)"
            )
        row = ModelRow(
            name=name,
            uid=new_uid(),
            source=COLLECTION,
            project_uid=project_uid,
            publisher=COLLECTION,
            collection=COLLECTION,
            display_name=request.model_id,
            license_id="",
            license_digest="",
            usability="RUNS_HERE",
            usability_detail="",
            facts={},
            latest_version="",
            withdrawn=False,
            digest="",
            change_sequence=0,
            create_time=now,
            update_time=now,
        )
    elif tuple(row.facts["tasks"]) != served.tasks:
        before, now_does = (", ".join(tasks) or "raw tensors" for tasks in (row.facts["tasks"], served.tasks))
        raise ModelFilesInvalid(
            f"{name} does {before}, and this version {now_does}; register it as a model of its own", field="model_id"
        )
    row.display_name = request.display_name or row.display_name
    row.license_id = request.license_id or row.license_id or "unstated"
    row.facts = {
        **row.facts,
        "summary": request.summary or row.facts.get("summary", ""),
        "tasks": list(served.tasks),
        "inference_tasks": [task.lower().replace("_", "-") for task in served.tasks],
        "deployment_options": list(served.deployment_options),
        "parameter_count": served.parameter_count,
        "context_tokens": served.context_tokens,
        "size_bytes": sum(file.size_bytes for file in registered.files),
        "sources": [],
    }
    if registered.license_text:
        row.license_digest = hashlib.sha256(registered.license_text.encode()).hexdigest()
        texts = table(LicenseTextRow)
        text = {"digest": row.license_digest, "text": registered.license_text}
        await database.insert_ignoring(uow, texts, [text], returning=[texts.c.digest])
    if registered.card or not row.latest_version:
        await uow.session.merge(ModelTextRow(model_uid=row.uid, card=registered.card, notes="", evaluation=""))
    return row


async def _version_row(
    uow: UnitOfWork,
    limits: OwnLimits,
    model: ModelRow,
    request: registry_pb2.RegisterModelVersionRequest,
    registered: _Registered,
    principal: str,
    now: datetime,
) -> VersionRow:
    versions = await stored.versions_of(uow.session, model.name)
    if len(versions) >= limits.versions_max:
        raise QuotaExceeded(f"{model.name} has {len(versions)} versions; {limits.versions_max} are allowed")
    taken = {row.name.rpartition("/")[2] for row in versions}
    version_id = request.version_id or next_version_id(taken)
    check_version_id(version_id, model.facts.get("labels", {}))
    if version_id in taken:
        raise ModelVersionExists(
            f"{model.name} has a version {version_id!r}, and versions never change; choose another id, or none",
            field="version_id",
        )
    served = registered.served
    artifacts = tuple(
        ArtifactRecord(name=file.name, sha256=file.sha256, size_bytes=file.size_bytes, uri=f"{STORE}:{file.sha256}")
        for file in registered.files
    )
    position = max((row.position for row in versions), default=0) + 1
    record = VersionRecord(version=version_id, position=position, artifacts=artifacts, serving=served.serving)
    row = VersionRow(
        name=f"{model.name}/versions/{version_id}",
        uid=new_uid(),
        model=model.name,
        position=position,
        identity=identity_of(record),
        artifacts=[msgspec.to_builtins(artifact) for artifact in artifacts],
        serving=served.serving,
        facts={
            "registered_by": principal,
            "created_by_job": request.created_by_job,
            "price_class": served.price_class,
        },
        preview=False,
        legacy_date="",
        deprecation_date="",
        retirement_date="",
        fine_tune_deprecation_date="",
        fine_tune_retirement_date="",
        replacement="",
        stage=int(Stage.GA),
        event_sequence=1,
        create_time=now,
    )
    uow.session.add(row)
    for sha256 in registered.contents:
        uow.session.add(VersionContentRow(version_uid=row.uid, sha256=sha256, project_uid=model.project_uid))
    _put(uow, model, [*versions, row], await stored.newest_change(uow.session), now)
    uow.emit(versions_published([(row.name, row.uid, row.stage)], now, project_uid=model.project_uid))
    return row


async def set_labels(
    database: Database, clock: Clock, *, project_uid: str, name: str, labels: Mapping[str, str], etag: str
) -> ModelRow:
    """Move labels; those that are not named stay.

    Raises:
        ModelNotFound: not of this project.
        LabelInvalid: see `with_labels`.
        EtagMismatch: the model changed since it was read.
    """
    async with database.unit_of_work() as uow:
        await take_turns(uow, database)
        row = await find_model(uow.session, name, project_uid)
        check_etag(row, etag)
        versions = await stored.versions_of(uow.session, row.name)
        ids = {version.name.rpartition("/")[2] for version in versions}
        changed = with_labels(row.facts.get("labels", {}), labels, ids, row.name)
        if changed != row.facts.get("labels", {}):
            row.facts = {**row.facts, "labels": changed}
            _put(uow, row, versions, await stored.newest_change(uow.session), clock.now())
        return row


async def set_archived(database: Database, clock: Clock, *, project_uid: str, name: str, archived: bool) -> ModelRow:
    """Close a model or one of its versions to new deployments, or open it again; doing it again changes nothing.

    Raises:
        ModelNotFound: not of this project.
    """
    async with database.unit_of_work() as uow:
        await take_turns(uow, database)
        is_version = OWN_VERSION.matches(name)
        model = await find_model(uow.session, name.partition("/versions/")[0], project_uid)
        row = (await find_version(uow.session, name, project_uid)).version if is_version else model
        if ("archived_ms" in row.facts) == archived:
            return model
        now = clock.now()
        facts = {key: value for key, value in row.facts.items() if key != "archived_ms"}
        row.facts = {**facts, "archived_ms": ms_from_time(now)} if archived else facts
        uow.session.add(row)
        versions = await stored.versions_of(uow.session, model.name)
        _put(uow, model, versions, await stored.newest_change(uow.session), now)
        return model


def check_etag(row: ModelRow, etag: str) -> None:
    """Raises EtagMismatch: it is no longer what was read; an empty etag changes whatever is there."""
    if etag and etag != row.digest[:16]:
        raise EtagMismatch(
            f"{row.name} has etag {row.digest[:16]!r} now, not {etag[:32]!r}; read it again", field="etag"
        )


def _put(uow: UnitOfWork, model: ModelRow, versions: Sequence[VersionRow], newest_change: int, now: datetime) -> None:
    """The model as its versions make it: the newest open one is the latest, else the newest of all."""
    newest = sorted(versions, key=lambda row: (("archived_ms" in row.facts), -row.position))[0]
    model.latest_version = newest.name
    model.update_time = now
    model.change_sequence = newest_change + 1
    model.digest = _digest(model, versions)
    uow.session.add(model)


def _digest(model: ModelRow, versions: Sequence[VersionRow]) -> str:
    """Of all that is said of a model; its etag."""
    said: list[Any] = [model.display_name, model.license_id, model.license_digest, model.facts, model.latest_version]
    said += sorted((row.name, row.identity, row.facts) for row in versions)
    return hashlib.sha256(msgspec.json.encode(said, order="deterministic")).hexdigest()
