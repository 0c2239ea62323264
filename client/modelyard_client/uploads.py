"""Files of a project's own models: uploaded in parts, continued after an interruption, and checked before they count."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from modelyard.catalog.v1 import registry_pb2

from modelyard_client.connection import Modelyard
from modelyard_client.errors import ModelyardError

ATTEMPTS_MAX = 8
RETRY_S_MAX = 8.0
# What is sent at once where the platform takes as much.
PART_BYTES = 4 << 20
# How often a check that goes on is asked after.
_POLL_S = 0.2
_PASSING = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED"}


async def upload_file(
    modelyard: Modelyard,
    project: str,
    path: Path,
    *,
    progress: Callable[[int], None] = lambda sent_bytes: None,
) -> registry_pb2.Upload:
    """Upload a file and wait until the platform has looked at it.

    A content that the project has already is not sent again, and an upload of it that was interrupted is gone on with,
    whoever began it.

    Args:
        project: `projects/{project}`.
        progress: Called with how many bytes the platform has.

    Returns:
        The upload, STORED: its content can be registered by its digest.

    Raises:
        ModelyardError: refused; the platform stayed away; or UPLOAD_REFUSED: it looked at the file and does not take it.
    """
    size_bytes, sha256 = path.stat().st_size, await asyncio.to_thread(_digest, path)
    upload = await _begin(modelyard, project, size_bytes, sha256)
    progress(upload.received_bytes)
    upload = await _send(modelyard, upload, path, progress)
    while upload.state == registry_pb2.UPLOAD_STATE_CHECKING:
        await asyncio.sleep(_POLL_S)
        upload = await modelyard.registry.GetUpload(registry_pb2.GetUploadRequest(name=upload.name))
    if upload.state == registry_pb2.UPLOAD_STATE_REFUSED:
        raise ModelyardError("FAILED_PRECONDITION", "UPLOAD_REFUSED", f"{path.name}: {upload.detail}")
    return upload


async def _begin(modelyard: Modelyard, project: str, size_bytes: int, sha256: str) -> registry_pb2.Upload:
    async for upload in _open_uploads(modelyard, project):
        if (upload.sha256, upload.size_bytes) == (sha256, size_bytes):
            return upload
    request = registry_pb2.CreateUploadRequest(parent=project, size_bytes=size_bytes, sha256=sha256)
    begun: registry_pb2.Upload = await modelyard.registry.CreateUpload(request)
    return begun


async def _open_uploads(modelyard: Modelyard, project: str) -> AsyncIterator[registry_pb2.Upload]:
    """Uploads of a project that are not done, newest first."""
    request = registry_pb2.ListUploadsRequest(parent=project)
    while True:
        response = await modelyard.registry.ListUploads(request)
        for upload in response.uploads:
            if upload.state in (registry_pb2.UPLOAD_STATE_RECEIVING, registry_pb2.UPLOAD_STATE_CHECKING):
                yield upload
        if not response.next_page_token:
            return
        request.page_token = response.next_page_token


async def _send(
    modelyard: Modelyard, upload: registry_pb2.Upload, path: Path, progress: Callable[[int], None]
) -> registry_pb2.Upload:
    """Send what is missing; the platform says after each part where to go on."""
    failed = 0
    length = min(upload.part_bytes_max, PART_BYTES)
    with path.open("rb") as file:
        while upload.state == registry_pb2.UPLOAD_STATE_RECEIVING:
            file.seek(upload.received_bytes)
            request = registry_pb2.UploadPartRequest(
                name=upload.name, offset=upload.received_bytes, data=file.read(length)
            )
            try:
                upload = await modelyard.registry.UploadPart(request)
                failed = 0
            except ModelyardError as error:
                failed += 1
                # Somebody else sends the same file at the same time: the upload says how far it is.
                if (error.code not in _PASSING and error.reason != "UPLOAD_OFFSET_WRONG") or failed >= ATTEMPTS_MAX:
                    raise
                await asyncio.sleep(error.retry_after_s or min(0.5 * 2 ** (failed - 1), RETRY_S_MAX))
                upload = await modelyard.registry.GetUpload(registry_pb2.GetUploadRequest(name=upload.name))
            progress(upload.received_bytes)
    return upload


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
