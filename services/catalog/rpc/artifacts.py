"""ArtifactService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import aclosing
from datetime import timedelta
from typing import Any

from google.protobuf.message import Message
from modelyard.catalog.v1 import artifacts_pb2, artifacts_pb2_grpc

from chassis.access import current_caller
from chassis.access.caller import CallerKind
from chassis.clock import Clock
from chassis.database import Database
from chassis.errors import InvalidArgument
from chassis.telemetry import get_logger
from chassis.timestamps import timestamp
from services.catalog.domain.downloads import (
    LIFETIME_S_DEFAULT,
    LIFETIME_S_MAX,
    Download,
    UrlSigner,
    file_url,
)
from services.catalog.domain.errors import RangeNotSatisfiable
from services.catalog.rpc.naming import Naming
from services.catalog.usecases.downloads import DownloadReader, check_license, find_file
from services.catalog.usecases.find import find_version

log = get_logger(__name__)

Context = Any
DATA_BYTES_MAX = 1 << 20


class ArtifactServicer(artifacts_pb2_grpc.ArtifactServiceServicer):
    """Files of versions, for whoever may have them.

    Args:
        projects_of: Uids of the projects that a principal is a member of: a licence that asks for it was accepted by one.
        http_url: Where the catalog's HTTP face is reached by those who get addresses, without a slash at its end.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        naming: Naming,
        signer: UrlSigner,
        reader: DownloadReader,
        projects_of: Callable[[str], Collection[str]],
        *,
        http_url: str,
    ) -> None:
        self._database = database
        self._clock = clock
        self._naming = naming
        self._signer = signer
        self._reader = reader
        self._projects_of = projects_of
        self._http_url = http_url

    async def SignDownloadUrl(
        self, request: artifacts_pb2.SignDownloadUrlRequest, context: Context
    ) -> artifacts_pb2.DownloadUrl:
        lifetime_s = request.lifetime_s or LIFETIME_S_DEFAULT
        if not 1 <= lifetime_s <= LIFETIME_S_MAX:
            raise InvalidArgument(
                f"lifetime_s {request.lifetime_s}; 1 to {LIFETIME_S_MAX} are allowed, and 0 for {LIFETIME_S_DEFAULT}",
                field="lifetime_s",
            )
        file = await self._file(request, request.artifact)
        expires = self._clock.now().replace(microsecond=0) + timedelta(seconds=lifetime_s)
        query = self._signer.query(file, current_caller().principal, expires)
        return artifacts_pb2.DownloadUrl(
            url=file_url(self._http_url, file, query),
            expire_time=timestamp(expires),
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            model_version=file.model_version,
        )

    async def DownloadArtifact(
        self, request: artifacts_pb2.DownloadArtifactRequest, context: Context
    ) -> AsyncIterator[artifacts_pb2.DownloadArtifactResponse]:
        file = await self._file(request, request.artifact)
        if not 0 <= request.offset <= file.size_bytes:
            raise RangeNotSatisfiable(
                f"offset {request.offset}; 0 to {file.size_bytes} are in {file.artifact!r}", file.size_bytes
            )
        log.info(
            "download",
            version=file.model_version,
            artifact=file.artifact,
            holder=current_caller().principal,
            start=request.offset,
            stop=file.size_bytes,
        )
        offset = request.offset
        yield artifacts_pb2.DownloadArtifactResponse(
            offset=offset, sha256=file.sha256, size_bytes=file.size_bytes, model_version=file.model_version
        )
        async with aclosing(self._reader.read(file, offset, file.size_bytes)) as pieces:
            async for piece in pieces:
                for start in range(0, len(piece), DATA_BYTES_MAX):
                    data = piece[start : start + DATA_BYTES_MAX]
                    yield artifacts_pb2.DownloadArtifactResponse(data=data, offset=offset)
                    offset += len(data)

    async def _file(self, request: Message, artifact: str) -> Download:
        asked = await self._naming.version(request)
        caller = current_caller()
        for_service = caller.kind is CallerKind.SERVICE
        async with self._database.reader() as session:
            named = await find_version(session, asked.name, asked.project_uid)
            file = find_file(named.model, named.version, artifact, for_service=for_service)
            if not for_service:
                await check_license(session, named.model, self._projects_of(caller.principal))
        return file
