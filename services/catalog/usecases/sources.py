"""Configure sources; the syncer does the rest."""

from __future__ import annotations

import re
from collections.abc import Callable

from modelyard.catalog.v1 import catalog_pb2, providers_pb2, sources_pb2

from chassis.clock import Clock
from chassis.database import Database, UnitOfWork
from chassis.errors import EtagMismatch
from chassis.ids import new_uid
from chassis.names import check_id
from chassis.rpc.idempotency import answered_before, remember_answer
from chassis.secret_files import is_secret_name
from chassis.web_address import WebAddressRefused, check_base_url
from services.catalog.domain.errors import SourceExists, SourceInvalid, SourceNotFound
from services.catalog.domain.names import COLLECTION, PUBLISHER
from services.catalog.domain.sources import RESERVED_IDS, TASK_WORDS, SyncState, check_globs, check_interval
from services.catalog.storage.queries import sources as queries
from services.catalog.storage.queries.pages import table
from services.catalog.storage.tables import CollectionRow, PublisherRow, SourceRow, SyncRunRow
from services.catalog.usecases.offers import withdraw_models
from services.catalog.usecases.sync_sources import end_run, new_run, next_sync_time

TERMS_BYTES_MAX = 64 * 1024
WORDS_MAX = 4000
RULES_MAX = 1000
HUB_WORD_LENGTH_MAX, HUB_TAGS_MAX = 128, 20
FOLDER_LENGTH_MAX = 256
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_PART = 500

# A source, its newest run, and how many models it holds, as the contract shows them.
AnswerOf = Callable[[SourceRow, SyncRunRow | None, int], sources_pb2.ModelSource]


def checked_spec(source: sources_pb2.ModelSource, *, insecure: bool) -> sources_pb2.ModelSource:
    """What is configured of a source, and nothing else; addresses in one form.

    Args:
        insecure: Take addresses beyond this machine in clear text.

    Raises:
        SourceInvalid: naming the field, its value and what is allowed.
    """
    check_globs(source.include, "include")
    check_globs(source.exclude, "exclude")
    check_interval(source.interval_s)
    if source.key_reference and not is_secret_name(source.key_reference):
        raise SourceInvalid(
            f"key_reference {source.key_reference[:80]!r} names no file of the keys' folder; letters, digits, '.', '_' and "
            "'-' are allowed, at most 64",
            field="key_reference",
        )
    if not COLLECTION.matches(source.collection):
        raise SourceInvalid(
            f"collection {source.collection[:80]!r} is not 'collections/…'; `modelyard collections` shows them",
            field="collection",
        )
    if len(source.terms.text.encode()) > TERMS_BYTES_MAX:
        raise SourceInvalid(f"terms.text is larger than {TERMS_BYTES_MAX} bytes", field="terms.text")
    if source.terms.acceptance_required and not source.terms.text:
        raise SourceInvalid("terms.acceptance_required is set and terms.text is empty", field="terms.text")
    for field in ("supported_by", "contact", "sla"):
        if len(getattr(source.support, field)) > WORDS_MAX:
            raise SourceInvalid(f"support.{field} is longer than {WORDS_MAX} characters", field=f"support.{field}")
    spec = sources_pb2.ModelSource(
        collection=source.collection,
        include=source.include,
        exclude=source.exclude,
        interval_s=source.interval_s,
        paused=source.paused,
        key_reference=source.key_reference,
        terms=source.terms,
        support=source.support,
    )
    kind = source.WhichOneof("kind")
    if kind is None:
        raise SourceInvalid("what kind of source it is is not said; set provider, hub or curated", field="kind")
    getattr(spec, kind).CopyFrom(getattr(source, kind))
    if kind == "provider":
        _check_provider(spec.provider, spec.key_reference, insecure=insecure)
    elif kind == "hub":
        _check_hub(spec, insecure=insecure)
    else:
        _check_curated(spec)
    return spec


def _check_curated(spec: sources_pb2.ModelSource) -> None:
    """As `checked_spec`."""
    folder = spec.curated.folder
    if len(folder) > FOLDER_LENGTH_MAX or not _FOLDER.fullmatch(folder):
        raise SourceInvalid(
            f"curated.folder is {folder[:80]!r}; it is a folder below MODELYARD_CATALOG_CURATED_DIR, such as 'acme', at most "
            f"{FOLDER_LENGTH_MAX} characters",
            field="curated.folder",
        )
    if spec.key_reference:
        raise SourceInvalid("key_reference is set; a folder is read without a credential", field="key_reference")
    _check_no_terms(spec, "a folder")


def _check_no_terms(spec: sources_pb2.ModelSource, where: str) -> None:
    if spec.HasField("terms") and spec.terms != catalog_pb2.License():
        raise SourceInvalid(f"terms is set; models of {where} have licences of their own", field="terms")


def _check_hub(spec: sources_pb2.ModelSource, *, insecure: bool) -> None:
    """As `checked_spec`; brings the endpoint into one form."""
    hub = spec.hub
    if hub.endpoint:
        try:
            hub.endpoint = check_base_url(hub.endpoint, insecure=insecure)
        except WebAddressRefused as why:
            raise SourceInvalid(f"hub.endpoint: {why}", field="hub.endpoint") from None
    _check_no_terms(spec, "a hub")
    for field in ("author", "search", "task"):
        if len(getattr(hub, field)) > HUB_WORD_LENGTH_MAX:
            raise SourceInvalid(f"hub.{field} is longer than {HUB_WORD_LENGTH_MAX} characters", field=f"hub.{field}")
    if len(hub.tags) > HUB_TAGS_MAX or any(not 1 <= len(tag) <= HUB_WORD_LENGTH_MAX for tag in hub.tags):
        raise SourceInvalid(
            f"hub.tags has {len(hub.tags)} tags; at most {HUB_TAGS_MAX}, of 1 to {HUB_WORD_LENGTH_MAX} characters, are "
            "allowed",
            field="hub.tags",
        )


def _check_provider(provider: sources_pb2.ProviderSource, key_reference: str, *, insecure: bool) -> None:
    """As `checked_spec`; brings the base URL into one form."""
    if provider.kind not in (providers_pb2.PROVIDER_KIND_OPENAI, providers_pb2.PROVIDER_KIND_AZURE_OPENAI):
        raise SourceInvalid(
            "provider.kind is PROVIDER_KIND_OPENAI or PROVIDER_KIND_AZURE_OPENAI", field="provider.kind"
        )
    try:
        provider.base_url = check_base_url(provider.base_url, insecure=insecure)
    except WebAddressRefused as why:
        raise SourceInvalid(f"provider.base_url: {why}", field="provider.base_url") from None
    is_azure = provider.kind == providers_pb2.PROVIDER_KIND_AZURE_OPENAI
    if bool(provider.api_version) != is_azure or len(provider.api_version) > 32:
        raise SourceInvalid(
            f"provider.api_version is {provider.api_version[:40]!r}; Azure OpenAI needs one, such as '2024-10-21', and "
            "others have none",
            field="provider.api_version",
        )
    if is_azure and not key_reference:
        raise SourceInvalid("key_reference is empty; Azure OpenAI takes no call without a key", field="key_reference")
    if not PUBLISHER.matches(provider.publisher):
        raise SourceInvalid(
            f"provider.publisher {provider.publisher[:80]!r} is not 'publishers/…', such as 'publishers/openai'",
            field="provider.publisher",
        )
    check_globs(list(provider.tasks), "provider.tasks")
    for glob, word in provider.tasks.items():
        if word not in TASK_WORDS:
            raise SourceInvalid(
                f"provider.tasks says {word[:40]!r} of {glob!r}; {', '.join(TASK_WORDS)} are allowed",
                field="provider.tasks",
            )
    if len(provider.deployments) > RULES_MAX:
        raise SourceInvalid(
            f"provider.deployments has {len(provider.deployments)} entries; at most {RULES_MAX} are allowed",
            field="provider.deployments",
        )


async def create_source(
    database: Database,
    clock: Clock,
    *,
    principal: str,
    request: sources_pb2.CreateModelSourceRequest,
    insecure: bool,
    answer_of: AnswerOf,
) -> sources_pb2.ModelSource:
    """Create a source; its first run waits, unless it is paused.

    Raises:
        SourceExists: the name is taken.
        SourceInvalid: see `checked_spec`.
    """
    check_id(request.source_id, "source_id")
    if request.source_id in RESERVED_IDS:
        raise SourceInvalid(f"source_id {request.source_id!r} is taken by the catalog itself", field="source_id")
    spec = checked_spec(request.source, insecure=insecure)
    now = clock.now()
    async with database.unit_of_work() as uow:
        before = await answered_before(uow, database, principal, request, sources_pb2.ModelSource)
        if before is not None:
            return before
        if await queries.source(uow.session, request.source_id) is not None:
            raise SourceExists(
                f"source {request.source_id!r} exists; choose another name, or update it", field="source_id"
            )
        await _check_collection(uow, spec)
        row = SourceRow(
            id=request.source_id,
            uid=new_uid(),
            spec=spec.SerializeToString(deterministic=True),
            revision=1,
            next_sync_time=None,
            run_count=0,
            lease_owner="",
            lease_until=None,
            create_time=now,
        )
        run = _wanted_run(uow, row, spec, principal, clock)
        await _put_publisher(uow, database, spec)
        answer = answer_of(row, run, 0)
        await remember_answer(uow, database, clock, principal, request, answer)
        return answer


async def update_source(
    database: Database,
    clock: Clock,
    *,
    principal: str,
    source_id: str,
    source: sources_pb2.ModelSource,
    insecure: bool,
    answer_of: AnswerOf,
) -> sources_pb2.ModelSource:
    """Replace what is configured; the same again changes nothing. A run that is under way ends, another one waits.

    Raises:
        SourceNotFound, EtagMismatch, SourceInvalid: see `checked_spec`; its kind stays.
    """
    spec = checked_spec(source, insecure=insecure)
    content = spec.SerializeToString(deterministic=True)
    async with database.unit_of_work() as uow:
        row = await _load(uow, database, source_id, source.etag)
        run = await queries.open_run(uow.session, source_id)
        counts = await queries.model_counts(uow.session, [source_id])
        if content != row.spec:
            before = sources_pb2.ModelSource.FromString(row.spec)
            if before.WhichOneof("kind") != spec.WhichOneof("kind"):
                raise SourceInvalid(
                    f"source {source_id!r} is a {before.WhichOneof('kind')} and stays one; create another source",
                    field="kind",
                )
            await _check_collection(uow, spec)
            await _put_publisher(uow, database, spec)
            row.spec = content
            row.revision += 1
            if run is not None:
                end_run(run, SyncState.INTERRUPTED, "the source was changed", clock.now())
                uow.session.add(run)
                # It ends before another one of the source begins.
                await uow.session.flush()
            row.lease_owner, row.lease_until = "", None
            run = _wanted_run(uow, row, spec, principal, clock)
        if run is None:
            run = (await queries.last_runs(uow.session, [source_id])).get(source_id)
        return answer_of(row, run, counts.get(source_id, 0))


async def delete_source(database: Database, clock: Clock, source_id: str, etag: str) -> None:
    """Delete a source and its runs; its models are withdrawn, and deployments of them go on.

    Raises:
        SourceNotFound, EtagMismatch.
    """
    async with database.unit_of_work() as uow:
        row = await _load(uow, database, source_id, etag)
        # A process that reads it finds it changed and stops; models are withdrawn part by part.
        row.revision += 1
        row.next_sync_time = None
        row.lease_owner, row.lease_until = "", None
        run = await queries.open_run(uow.session, source_id)
        if run is not None:
            end_run(run, SyncState.INTERRUPTED, "the source was deleted", clock.now())
            uow.session.add(run)
        uow.session.add(row)
    while True:
        async with database.unit_of_work() as uow:
            row = await _load(uow, database, source_id)
            names = await queries.listed_models(uow.session, source_id, _PART)
            await withdraw_models(uow, clock.now(), source_id, names)
            if len(names) < _PART:
                await queries.forget_runs(uow, source_id, row.run_count + 1)
                await uow.session.delete(row)
                return


async def ask_for_sync(database: Database, clock: Clock, principal: str, source_id: str) -> SyncRunRow:
    """The run that is not ended, or a new one that waits.

    Raises:
        SourceNotFound.
    """
    async with database.unit_of_work() as uow:
        row = await _load(uow, database, source_id)
        run = await queries.open_run(uow.session, source_id)
        if run is None:
            run = new_run(row, principal, clock.now())
            uow.session.add_all([row, run])
        return run


def _wanted_run(
    uow: UnitOfWork, row: SourceRow, spec: sources_pb2.ModelSource, principal: str, clock: Clock
) -> SyncRunRow | None:
    """A run for what is configured now, unless the source is paused."""
    now = clock.now()
    row.next_sync_time = next_sync_time(spec, now)
    run = None if spec.paused else new_run(row, principal, now)
    uow.session.add_all([row, run] if run is not None else [row])
    return run


async def _load(uow: UnitOfWork, database: Database, source_id: str, etag: str = "") -> SourceRow:
    row = await queries.source_locked(uow.session, database, source_id)
    if row is None:
        raise SourceNotFound(
            f"source {source_id!r} does not exist; `modelyard catalog sources` shows those that do", field="name"
        )
    if etag and etag != str(row.revision):
        raise EtagMismatch(
            f"source {source_id!r} has etag {str(row.revision)!r} now, not {etag[:32]!r}; read it again", field="etag"
        )
    return row


async def _check_collection(uow: UnitOfWork, spec: sources_pb2.ModelSource) -> None:
    """Its models' collection exists, and its kind is one that such a source may fill.

    Raises:
        SourceInvalid: naming it.
    """
    row = await uow.session.get(CollectionRow, COLLECTION.parse(spec.collection)["collection"])
    if row is None:
        raise SourceInvalid(
            f"collection {spec.collection!r} does not exist; `modelyard collections` shows those that do",
            field="collection",
        )
    allowed = {"provider": "PROVIDER", "hub": "HUB", "curated": "CURATED"}[spec.WhichOneof("kind") or ""]
    if row.kind != allowed:
        raise SourceInvalid(
            f"collection {spec.collection!r} is of kind {row.kind.lower()}; such a source fills one of kind "
            f"{allowed.lower()}",
            field="collection",
        )


async def _put_publisher(uow: UnitOfWork, database: Database, spec: sources_pb2.ModelSource) -> None:
    """The publisher of a provider's models, where the catalog knows none of that name."""
    if spec.WhichOneof("kind") != "provider":
        return
    publishers = table(PublisherRow)
    publisher = PUBLISHER.parse(spec.provider.publisher)["publisher"]
    row = PublisherRow(id=publisher, display_name=publisher, website="")
    await database.insert_ignoring(uow, publishers, [row.model_dump()], returning=[publishers.c.id])
