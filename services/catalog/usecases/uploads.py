"""Take files in: begin an upload, receive its parts, give it up."""

from __future__ import annotations

from collections.abc import Callable

from modelyard.catalog.v1 import registry_pb2

from chassis.clock import Clock
from chassis.database import Database
from chassis.ids import new_uid
from chassis.rpc.idempotency import answered_before, remember_answer
from services.catalog.artifacts.store import ArtifactStore
from services.catalog.domain.own.errors import QuotaExceeded, UploadNotFound
from services.catalog.domain.uploads import UploadLimits, UploadState, check_announced, check_part
from services.catalog.storage.queries import registry
from services.catalog.storage.tables import UploadPartRow, UploadRow

ToProto = Callable[[UploadRow], registry_pb2.Upload]


async def create_upload(
    database: Database,
    clock: Clock,
    limits: UploadLimits,
    *,
    principal: str,
    project_uid: str,
    project: str,
    request: registry_pb2.CreateUploadRequest,
    to_proto: ToProto,
) -> registry_pb2.Upload:
    """Begin an upload; a content that this project has already is not sent again.

    What only others have is: knowing a digest is not having the file.

    Raises:
        InvalidArgument, UploadTooLarge: see `check_announced`.
        QuotaExceeded: the project has as many uploads, or as many bytes, as it may.
    """
    check_announced(request.size_bytes, request.sha256, limits)
    async with database.unit_of_work() as uow:
        before = await answered_before(uow, database, principal, request, registry_pb2.Upload)
        if before is not None:
            return before
        owned = await registry.owned_content(uow.session, project_uid, request.sha256)
        is_here = owned is not None and owned.size_bytes == request.size_bytes
        now = clock.now()
        if is_here:
            await registry.touch_owned(uow.session, project_uid, [request.sha256], now)
        else:
            open_count, open_bytes = await registry.open_uploads(uow.session, project_uid)
            stored_bytes = await registry.project_bytes(uow.session, project_uid)
            _check_quota(project, open_count, stored_bytes + open_bytes + request.size_bytes, limits)
        row = UploadRow(
            uid=new_uid(),
            project_uid=project_uid,
            principal=principal,
            size_bytes=request.size_bytes,
            sha256=request.sha256,
            received_bytes=request.size_bytes if is_here else 0,
            state=int(_first_state(request.size_bytes, is_here=is_here)),
            detail="",
            create_time=now,
            update_time=now,
            claimed_until=None,
        )
        uow.session.add(row)
        answer = to_proto(row)
        await remember_answer(uow, database, clock, principal, request, answer)
        return answer


def _first_state(size_bytes: int, *, is_here: bool) -> UploadState:
    if is_here:
        return UploadState.STORED
    # An empty file has come already.
    return UploadState.RECEIVING if size_bytes else UploadState.CHECKING


def _check_quota(project: str, open_count: int, wanted_bytes: int, limits: UploadLimits) -> None:
    if open_count >= limits.open_max:
        raise QuotaExceeded(
            f"project {project!r} has {open_count} uploads that are not done; {limits.open_max} are allowed: finish or "
            "delete one"
        )
    if wanted_bytes > limits.project_bytes_max:
        raise QuotaExceeded(
            f"with this file project {project!r} would have {wanted_bytes} bytes; {limits.project_bytes_max} are allowed "
            "(MODELYARD_CATALOG_PROJECT_BYTES_MAX)"
        )


async def receive_part(
    database: Database,
    clock: Clock,
    store: ArtifactStore,
    limits: UploadLimits,
    *,
    project_uid: str,
    upload_uid: str,
    offset: int,
    data: bytes,
) -> UploadRow:
    """Store the next part; the row says from where to go on.

    The part is in the store before a row counts it. Of two parts that race for one place the first one that is counted
    stays; the other one lies unused until the upload is done.

    Raises:
        UploadNotFound: not of this project, or given up.
        InvalidArgument, UploadOffsetWrong: see `check_part`.
        StoreUnavailable: the store does not answer; nothing is counted.
    """
    async with database.reader() as session:
        row = await registry.upload(session, project_uid, upload_uid)
    if row is None:
        raise no_upload(upload_uid)
    if not _is_next(row, offset, len(data), limits):
        return row
    part = f"{offset:020d}-{new_uid()}"
    await store.put_part(upload_uid, part, data)
    async with database.unit_of_work() as uow:
        row = await registry.upload_locked(uow.session, database, upload_uid)
        if row is None or row.state == UploadState.DROPPED:
            raise no_upload(upload_uid)
        if not _is_next(row, offset, len(data), limits):
            return row
        uow.session.add(UploadPartRow(upload_uid=upload_uid, start_bytes=offset, size_bytes=len(data), part=part))
        row.received_bytes += len(data)
        row.update_time = clock.now()
        if row.received_bytes == row.size_bytes:
            row.state = int(UploadState.CHECKING)
        uow.session.add(row)
        return row


async def delete_upload(database: Database, clock: Clock, *, project_uid: str, upload_uid: str) -> None:
    """Give an upload up; its parts leave the store with the next sweep.

    Raises:
        UploadNotFound: not of this project, or given up before.
    """
    async with database.unit_of_work() as uow:
        row = await registry.upload_locked(uow.session, database, upload_uid)
        if row is None or row.project_uid != project_uid or row.state == UploadState.DROPPED:
            raise no_upload(upload_uid)
        row.state = int(UploadState.DROPPED)
        row.update_time = clock.now()
        uow.session.add(row)


def _is_next(row: UploadRow, offset: int, length: int, limits: UploadLimits) -> bool:
    return check_part(
        offset=offset,
        length=length,
        received_bytes=row.received_bytes,
        size_bytes=row.size_bytes,
        limits=limits,
    )


def no_upload(uid: str) -> UploadNotFound:
    """There is none, or not here."""
    return UploadNotFound(
        f"upload {uid[:80]!r} does not exist in this project, or was given up; begin it again", field="name"
    )
