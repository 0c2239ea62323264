"""RegistryService."""

from __future__ import annotations

from typing import Any

from google.protobuf.empty_pb2 import Empty
from modelyard.catalog.v1 import catalog_pb2, registry_pb2, registry_pb2_grpc

from chassis.access import current_caller
from chassis.access.caller import CallerKind
from chassis.clock import Clock
from chassis.database import Database
from chassis.errors import PermissionDenied
from chassis.names import ResourcePattern
from chassis.paging import page_size, page_token_decode, page_token_encode, split_page
from services.catalog.artifacts.store import ArtifactStore
from services.catalog.domain.names import OWN_MODEL
from services.catalog.domain.own.describe import ServingLimits
from services.catalog.domain.own.rules import OwnLimits
from services.catalog.domain.uploads import UploadLimits, UploadState
from services.catalog.rpc.convert import model_to_proto, upload_to_proto, version_to_proto
from services.catalog.rpc.naming import asked_within
from services.catalog.storage.queries import models as stored
from services.catalog.storage.queries import registry
from services.catalog.storage.tables import ModelRow, UploadRow, VersionRow
from services.catalog.usecases.check_uploads import UploadChecker
from services.catalog.usecases.own_models import register_version, set_archived, set_labels
from services.catalog.usecases.uploads import create_upload, delete_upload, no_upload, receive_part

Context = Any
UPLOAD = ResourcePattern("projects/{project}/uploads/{upload}")


class RegistryServicer(registry_pb2_grpc.RegistryServiceServicer):
    """Uploads and own models of the project that the interceptor resolved."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        store: ArtifactStore,
        checker: UploadChecker,
        uploads: UploadLimits,
        own: OwnLimits,
        serving: ServingLimits,
    ) -> None:
        self._database = database
        self._clock = clock
        self._store = store
        self._checker = checker
        self._uploads = uploads
        self._own = own
        self._serving = serving

    async def CreateUpload(self, request: registry_pb2.CreateUploadRequest, context: Context) -> registry_pb2.Upload:
        caller = current_caller()
        answer = await create_upload(
            self._database,
            self._clock,
            self._uploads,
            principal=caller.principal,
            project_uid=caller.project_uid,
            project=caller.project,
            request=request,
            to_proto=self._upload,
        )
        self._check(answer.state)
        return answer

    async def UploadPart(self, request: registry_pb2.UploadPartRequest, context: Context) -> registry_pb2.Upload:
        row = await receive_part(
            self._database,
            self._clock,
            self._store,
            self._uploads,
            project_uid=current_caller().project_uid,
            upload_uid=UPLOAD.parse(request.name)["upload"],
            offset=request.offset,
            data=request.data,
        )
        self._check(row.state)
        return self._upload(row)

    async def GetUpload(self, request: registry_pb2.GetUploadRequest, context: Context) -> registry_pb2.Upload:
        uid = UPLOAD.parse(request.name)["upload"]
        async with self._database.reader() as session:
            row = await registry.upload(session, current_caller().project_uid, uid)
            content = await registry.content(session, row.sha256) if row and row.state == UploadState.STORED else None
        if row is None:
            raise no_upload(uid)
        answer = self._upload(row)
        answer.format = content.format if content else ""
        return answer

    async def ListUploads(
        self, request: registry_pb2.ListUploadsRequest, context: Context
    ) -> registry_pb2.ListUploadsResponse:
        project_uid = current_caller().project_uid
        scope = f"ListUploads/{project_uid}"
        (before,) = page_token_decode(request.page_token, scope, ("",))
        limit = page_size(request.page_size)
        async with self._database.reader() as session:
            found = await registry.uploads_page(session, project_uid, before, limit + 1)
        rows, more = split_page(found, limit)
        return registry_pb2.ListUploadsResponse(
            uploads=[self._upload(row) for row in rows],
            next_page_token=page_token_encode(scope, [rows[-1].uid]) if more else "",
        )

    async def DeleteUpload(self, request: registry_pb2.DeleteUploadRequest, context: Context) -> Empty:
        uid = UPLOAD.parse(request.name)["upload"]
        project_uid = current_caller().project_uid
        await delete_upload(self._database, self._clock, project_uid=project_uid, upload_uid=uid)
        return Empty()

    async def RegisterModelVersion(
        self, request: registry_pb2.RegisterModelVersionRequest, context: Context
    ) -> catalog_pb2.ModelVersion:
        caller = current_caller()
        if request.created_by_job and caller.kind is not CallerKind.SERVICE:
            raise PermissionDenied("created_by_job is set by the service that ran the job; leave it empty")
        return await register_version(
            self._database,
            self._clock,
            self._own,
            self._serving,
            principal=caller.principal,
            project_uid=caller.project_uid,
            project=caller.project,
            request=request,
            read_small=self._read_small,
            to_proto=self._version,
        )

    async def ListProjectModels(
        self, request: registry_pb2.ListProjectModelsRequest, context: Context
    ) -> registry_pb2.ListProjectModelsResponse:
        project_uid = current_caller().project_uid
        scope = f"ListProjectModels/{project_uid}/{request.show_archived}"
        (after,) = page_token_decode(request.page_token, scope, ("",))
        limit = page_size(request.page_size)
        async with self._database.reader() as session:
            found = await registry.own_models_page(
                session, project_uid, after, limit + 1, show_archived=request.show_archived
            )
            rows, more = split_page(found, limit)
            newest = await stored.versions(session, [row.latest_version for row in rows])
        now = self._clock.now()
        return registry_pb2.ListProjectModelsResponse(
            models=[model_to_proto(row, newest.get(row.latest_version), now) for row in rows],
            next_page_token=page_token_encode(scope, [rows[-1].name]) if more else "",
        )

    async def UpdateModelLabels(
        self, request: registry_pb2.UpdateModelLabelsRequest, context: Context
    ) -> catalog_pb2.Model:
        OWN_MODEL.parse(request.name)
        asked = asked_within(current_caller(), request.name, "name")
        row = await set_labels(
            self._database,
            self._clock,
            project_uid=asked.project_uid,
            name=asked.name,
            labels=dict(request.labels),
            etag=request.etag,
        )
        return await self._model(row)

    async def ArchiveProjectModel(
        self, request: registry_pb2.ArchiveProjectModelRequest, context: Context
    ) -> catalog_pb2.Model:
        return await self._set_archived(request.name, archived=True)

    async def RestoreProjectModel(
        self, request: registry_pb2.RestoreProjectModelRequest, context: Context
    ) -> catalog_pb2.Model:
        return await self._set_archived(request.name, archived=False)

    async def _set_archived(self, name: str, *, archived: bool) -> catalog_pb2.Model:
        asked = asked_within(current_caller(), name, "name")
        row = await set_archived(
            self._database, self._clock, project_uid=asked.project_uid, name=asked.name, archived=archived
        )
        return await self._model(row)

    async def _model(self, row: ModelRow) -> catalog_pb2.Model:
        async with self._database.reader() as session:
            newest = await stored.version(session, row.latest_version)
        return model_to_proto(row, newest, self._clock.now())

    def _version(self, row: VersionRow, model: ModelRow) -> catalog_pb2.ModelVersion:
        return version_to_proto(row, model, self._clock.now(), with_location=False)

    def _upload(self, row: UploadRow) -> registry_pb2.Upload:
        return upload_to_proto(row, current_caller().project, self._uploads)

    def _check(self, state: int) -> None:
        """Wake the checker for a file that is whole."""
        if state == UploadState.CHECKING:
            self._checker.wanted.set()

    async def _read_small(self, sha256: str, size_bytes: int) -> bytes:
        return b"".join([piece async for piece in self._store.read(sha256, 0, size_bytes)])
