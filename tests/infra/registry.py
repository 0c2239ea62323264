"""A project's registry over a database and a store, called as the project's members call it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelyard.catalog.v1 import catalog_pb2, registry_pb2

from chassis.access import Caller
from chassis.access.caller import CallerKind, set_current_caller
from chassis.database import Database
from engines.architectures import RUN_BY
from services.catalog.artifacts.store import ArtifactStore
from services.catalog.domain.own.describe import ServingLimits
from services.catalog.domain.own.rules import OwnLimits
from services.catalog.domain.uploads import UploadLimits
from services.catalog.rpc.registry import RegistryServicer
from services.catalog.usecases.check_uploads import UploadChecker
from tests.clock import ManualClock
from tests.infra.model_files import doubling_model

TRITON_CONFIG = b"""
backend: "onnxruntime"
max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 3 ] } ]
"""
DOUBLER = {"double/config.pbtxt": TRITON_CONFIG, "double/1/model.onnx": doubling_model()}
LIMITS = UploadLimits(part_bytes_min=1)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Registry:
    """Members of projects upload and register; `act_as` says who calls from then on."""

    def __init__(
        self,
        database: Database,
        store: ArtifactStore,
        folder: Path,
        limits: UploadLimits = LIMITS,
        own: OwnLimits | None = None,
    ) -> None:
        self.database, self.store, self.clock = database, store, ManualClock()
        self.checker = UploadChecker(database, self.clock, store, limits, folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.servicer = RegistryServicer(
            database, self.clock, store, self.checker, limits, own or OwnLimits(), ServingLimits(run_by=RUN_BY)
        )
        self.act_as("shop")

    def act_as(self, project: str, kind: CallerKind = CallerKind.USER) -> None:
        self.parent = f"projects/{project}"
        set_current_caller(Caller("user:ann", kind, project_uid=f"uid-{project}", project=project))

    async def begin(self, data: bytes, sha256: str = "", request_id: str = "") -> registry_pb2.Upload:
        request = registry_pb2.CreateUploadRequest(
            parent=self.parent, size_bytes=len(data), sha256=sha256 or digest(data), request_id=request_id
        )
        return await self.servicer.CreateUpload(request, None)

    async def send(self, upload: registry_pb2.Upload, offset: int, data: bytes) -> registry_pb2.Upload:
        request = registry_pb2.UploadPartRequest(name=upload.name, offset=offset, data=data)
        return await self.servicer.UploadPart(request, None)

    async def get(self, upload: registry_pb2.Upload) -> registry_pb2.Upload:
        return await self.servicer.GetUpload(registry_pb2.GetUploadRequest(name=upload.name), None)

    async def check(self) -> None:
        """Until nothing waits for it."""
        while await self.checker.check_some():
            pass

    async def upload(self, data: bytes) -> registry_pb2.Upload:
        """All of it, checked."""
        upload = await self.begin(data)
        if data and upload.state == registry_pb2.UPLOAD_STATE_RECEIVING:
            await self.send(upload, 0, data)
        await self.check()
        return await self.get(upload)

    async def register(
        self, files: Mapping[str, bytes] = DOUBLER, model_id: str = "doubler", **asked: Any
    ) -> catalog_pb2.ModelVersion:
        """Upload files and make a version of them."""
        for data in files.values():
            assert (await self.upload(data)).state == registry_pb2.UPLOAD_STATE_STORED
        return await self.register_uploaded({name: digest(data) for name, data in files.items()}, model_id, **asked)

    async def register_uploaded(
        self, files: Mapping[str, str], model_id: str = "doubler", **asked: Any
    ) -> catalog_pb2.ModelVersion:
        named = [registry_pb2.UploadedFile(name=name, sha256=sha256) for name, sha256 in files.items()]
        request = registry_pb2.RegisterModelVersionRequest(parent=self.parent, model_id=model_id, files=named, **asked)
        return await self.servicer.RegisterModelVersion(request, None)
