"""SourceService."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.empty_pb2 import Empty
from modelyard.catalog.v1 import sources_pb2, sources_pb2_grpc

from chassis.access import current_caller
from chassis.clock import Clock
from chassis.database import Database
from chassis.names import ResourcePattern
from chassis.paging import page_size, page_token_decode, page_token_encode, split_page
from chassis.timestamps import timestamp
from services.catalog.domain.errors import SourceNotFound, SyncRunNotFound
from services.catalog.sources.interface import AdapterFactory
from services.catalog.storage.queries import sources as queries
from services.catalog.storage.tables import SourceRow, SyncRunRow
from services.catalog.usecases import sources
from services.catalog.usecases.preview_source import preview_source
from services.catalog.usecases.sync_sources import Syncer

SOURCE = ResourcePattern("sources/{source}")
RUN = ResourcePattern("sources/{source}/runs/{run}")
# Later than any run.
NUMBER_MAX = 2**31 - 1
# Stands for a source that is not created yet: no model came from it.
_UNNAMED = "preview"
Context = Any


class SourceServicer(sources_pb2_grpc.SourceServiceServicer):
    """What is wanted is written here, and the syncer is woken.

    Args:
        adapters: By kind of source, as the contract names it.
        insecure: Take addresses beyond this machine in clear text.
        preview_models_max: Models that a preview looks at.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        syncer: Syncer,
        adapters: Mapping[str, AdapterFactory],
        *,
        insecure: bool,
        preview_models_max: int,
    ) -> None:
        self._database = database
        self._clock = clock
        self._syncer = syncer
        self._adapters = adapters
        self._insecure = insecure
        self._preview_models_max = preview_models_max

    async def CreateModelSource(
        self, request: sources_pb2.CreateModelSourceRequest, context: Context
    ) -> sources_pb2.ModelSource:
        answer = await sources.create_source(
            self._database,
            self._clock,
            principal=current_caller().principal,
            request=request,
            insecure=self._insecure,
            answer_of=source_to_proto,
        )
        self._syncer.wanted.set()
        return answer

    async def GetModelSource(
        self, request: sources_pb2.GetModelSourceRequest, context: Context
    ) -> sources_pb2.ModelSource:
        source_id = SOURCE.parse(request.name)["source"]
        async with self._database.reader() as session:
            row = await queries.source(session, source_id)
            if row is None:
                raise _no_source(request.name)
            runs = await queries.last_runs(session, [row.id])
            counts = await queries.model_counts(session, [row.id])
        return source_to_proto(row, runs.get(row.id), counts.get(row.id, 0))

    async def ListModelSources(
        self, request: sources_pb2.ListModelSourcesRequest, context: Context
    ) -> sources_pb2.ListModelSourcesResponse:
        scope = "ListModelSources"
        (after,) = page_token_decode(request.page_token, scope, ("",))
        limit = page_size(request.page_size)
        async with self._database.reader() as session:
            rows, more = split_page(await queries.sources_page(session, after, limit + 1), limit)
            ids = [row.id for row in rows]
            runs, counts = await queries.last_runs(session, ids), await queries.model_counts(session, ids)
        return sources_pb2.ListModelSourcesResponse(
            sources=[source_to_proto(row, runs.get(row.id), counts.get(row.id, 0)) for row in rows],
            next_page_token=page_token_encode(scope, [rows[-1].id]) if more else "",
        )

    async def UpdateModelSource(
        self, request: sources_pb2.UpdateModelSourceRequest, context: Context
    ) -> sources_pb2.ModelSource:
        answer = await sources.update_source(
            self._database,
            self._clock,
            principal=current_caller().principal,
            source_id=SOURCE.parse(request.source.name, "source.name")["source"],
            source=request.source,
            insecure=self._insecure,
            answer_of=source_to_proto,
        )
        self._syncer.wanted.set()
        return answer

    async def DeleteModelSource(self, request: sources_pb2.DeleteModelSourceRequest, context: Context) -> Empty:
        await sources.delete_source(self._database, self._clock, SOURCE.parse(request.name)["source"], request.etag)
        return Empty()

    async def PreviewModelSource(
        self, request: sources_pb2.PreviewModelSourceRequest, context: Context
    ) -> sources_pb2.PreviewModelSourceResponse:
        asked = request.source
        source_id = SOURCE.parse(asked.name, "source.name")["source"] if asked.name else _UNNAMED
        if asked.WhichOneof("kind") is None and asked.name:
            async with self._database.reader() as session:
                row = await queries.source(session, source_id)
            if row is None:
                raise _no_source(asked.name)
            spec = sources_pb2.ModelSource.FromString(row.spec)
        else:
            spec = sources.checked_spec(asked, insecure=self._insecure)
        spec.name = SOURCE.format(source=source_id)
        adapter = self._adapters[spec.WhichOneof("kind") or ""](spec, self._clock.now().date())
        found = await preview_source(
            self._database, self._clock, source_id, adapter, models_max=self._preview_models_max
        )
        return sources_pb2.PreviewModelSourceResponse(
            counts=sources_pb2.SyncCounts(**found.counts),
            changes=[sources_pb2.SyncChange(model=model, change=change) for model, change in found.changes],
            failures=[
                sources_pb2.SyncFailure(model=one.model, field=one.field, reason=one.reason) for one in found.failures
            ],
            truncated=found.truncated,
        )

    async def SyncModelSource(
        self, request: sources_pb2.SyncModelSourceRequest, context: Context
    ) -> sources_pb2.SyncRun:
        source_id = SOURCE.parse(request.name)["source"]
        run = await sources.ask_for_sync(self._database, self._clock, current_caller().principal, source_id)
        self._syncer.wanted.set()
        return run_to_proto(run)

    async def GetSyncRun(self, request: sources_pb2.GetSyncRunRequest, context: Context) -> sources_pb2.SyncRun:
        ids = RUN.parse(request.name)
        async with self._database.reader() as session:
            run = await queries.run(session, ids["source"], ids["run"])
        if run is None:
            raise SyncRunNotFound(
                f"run {request.name!r} does not exist, or is not kept any more; `modelyard catalog sources runs "
                f"{ids['source']}` lists those that are",
                field="name",
            )
        return run_to_proto(run, with_failures=True)

    async def ListSyncRuns(
        self, request: sources_pb2.ListSyncRunsRequest, context: Context
    ) -> sources_pb2.ListSyncRunsResponse:
        source_id = SOURCE.parse(request.parent, "parent")["source"]
        scope = f"ListSyncRuns/{source_id}"
        (before,) = page_token_decode(request.page_token, scope, (NUMBER_MAX,))
        limit = page_size(request.page_size)
        async with self._database.reader() as session:
            if await queries.source(session, source_id) is None:
                raise _no_source(request.parent)
            found = await queries.runs_page(session, source_id, min(before, NUMBER_MAX), limit + 1)
        rows, more = split_page(found, limit)
        return sources_pb2.ListSyncRunsResponse(
            runs=[run_to_proto(row) for row in rows],
            next_page_token=page_token_encode(scope, [rows[-1].number]) if more else "",
        )


def source_to_proto(row: SourceRow, run: SyncRunRow | None, model_count: int) -> sources_pb2.ModelSource:
    """A source with its newest run."""
    source = sources_pb2.ModelSource.FromString(row.spec)
    source.MergeFrom(
        sources_pb2.ModelSource(
            name=SOURCE.format(source=row.id),
            uid=row.uid,
            etag=str(row.revision),
            create_time=timestamp(row.create_time),
            next_sync_time=None if row.next_sync_time is None else timestamp(row.next_sync_time),
            last_run=None if run is None else run_to_proto(run),
            model_count=model_count,
        )
    )
    return source


def run_to_proto(row: SyncRunRow, *, with_failures: bool = False) -> sources_pb2.SyncRun:
    """A run; `with_failures` with the models that were refused."""
    return sources_pb2.SyncRun(
        name=RUN.format(source=row.source, run=row.uid),
        state=sources_pb2.SyncState.ValueType(row.state),
        trigger=row.trigger,
        counts=sources_pb2.SyncCounts(**row.counts),
        failures=[sources_pb2.SyncFailure(**one) for one in row.failures] if with_failures else [],
        detail=row.detail,
        create_time=timestamp(row.create_time),
        start_time=None if row.start_time is None else timestamp(row.start_time),
        end_time=None if row.end_time is None else timestamp(row.end_time),
        resume_count=row.resume_count,
    )


def _no_source(name: str) -> SourceNotFound:
    return SourceNotFound(
        f"source {name!r} does not exist; `modelyard catalog sources` shows those that do", field="name"
    )
