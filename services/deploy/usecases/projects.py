"""Projects, members and keys."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime

from modelyard.deploy.v1 import deploy_pb2

from chassis.clock import Clock
from chassis.database import Database, UnitOfWork
from chassis.errors import InvalidArgument, RequestIdReused
from chassis.ids import new_uid
from chassis.names import check_id
from chassis.rpc.idempotency import answered_before, remember_answer
from services.deploy.domain.errors import (
    ApiKeyExpiryPast,
    ApiKeyNotFound,
    EndpointNotFound,
    ProjectExists,
)
from services.deploy.domain.keys import ID_BYTES, SECRET_BYTES, make_key
from services.deploy.domain.members import Role, with_member, without_member
from services.deploy.events.published import key_access, project_access, project_created
from services.deploy.storage import queries
from services.deploy.storage.convert import api_key_to_proto, project_to_proto
from services.deploy.storage.tables import ApiKeyRow, ProjectRow

PROJECT_KEY, PRIMARY_KEY, SECONDARY_KEY = 1, 2, 3
# Endpoints one key may be limited to.
SCOPES_MAX = 100
# Holds what the platform runs for everybody: models that are tried.
PLATFORM_PROJECT = "modelyard"


async def create_project(
    database: Database, clock: Clock, principal: str, request: deploy_pb2.CreateProjectRequest
) -> deploy_pb2.Project:
    """Create a project; the caller becomes its owner.

    Raises:
        ProjectExists: the name is taken.
    """
    check_id(request.project_id, "project_id")
    if request.project_id == PLATFORM_PROJECT:
        raise ProjectExists(
            f"project {PLATFORM_PROJECT!r} is the platform's own; choose another name", field="project_id"
        )
    row = ProjectRow(
        uid=new_uid(),
        name=request.project_id,
        members={principal: int(Role.OWNER)},
        revision=1,
        create_time=clock.now(),
    )
    async with database.unit_of_work() as uow:
        # The unique name orders creations: of two at once the second waits here, and then finds the first one's answer.
        table = queries.table(ProjectRow)
        added = await database.insert_ignoring(uow, table, [row.model_dump()], returning=[table.c.uid])
        before = await answered_before(uow, database, principal, request, deploy_pb2.Project)
        if before is not None:
            return before
        if not added:
            raise ProjectExists(f"project {request.project_id!r} exists; choose another name", field="project_id")
        uow.emit(project_created(row))
        uow.project(project_access(row))
        answer = project_to_proto(row)
        await remember_answer(uow, database, clock, principal, request, answer)
        return answer


async def add_member(database: Database, project_uid: str, principal: str, role: int) -> deploy_pb2.Project:
    """Give a principal a role."""
    async with database.unit_of_work() as uow:
        row = await queries.project_locked(uow.session, database, project_uid)
        return _save_members(uow, row, with_member(row.members, principal, role))


async def remove_member(database: Database, project_uid: str, principal: str) -> deploy_pb2.Project:
    """Take a principal's role away."""
    async with database.unit_of_work() as uow:
        row = await queries.project_locked(uow.session, database, project_uid)
        return _save_members(uow, row, without_member(row.members, principal))


def _save_members(uow: UnitOfWork, row: ProjectRow, members: dict[str, int]) -> deploy_pb2.Project:
    row.members = members
    row.revision += 1
    uow.session.add(row)
    uow.project(project_access(row))
    return project_to_proto(row)


async def create_api_key(
    database: Database,
    clock: Clock,
    *,
    principal: str,
    project_uid: str,
    project: str,
    request: deploy_pb2.CreateApiKeyRequest,
    expire_time: datetime | None,
) -> deploy_pb2.CreateApiKeyResponse:
    """Make a project key; its secret is in the answer and nowhere else.

    Raises:
        EndpointNotFound: a scope that is not an endpoint of the project.
        InvalidArgument: more scopes than a key may have.
        ApiKeyExpiryPast: it would be expired already.
        RequestIdReused: the request was answered before.
    """
    if len(request.endpoints) > SCOPES_MAX:
        raise InvalidArgument(
            f"endpoints has {len(request.endpoints)} items; at most {SCOPES_MAX} are allowed: leave it empty for all",
            field="endpoints",
        )
    now = clock.now()
    if expire_time is not None and expire_time <= now:
        raise ApiKeyExpiryPast(
            f"expire_time {expire_time.isoformat()} is not after now, {now.isoformat()}", field="expire_time"
        )
    async with database.unit_of_work() as uow:
        await queries.project_locked(uow.session, database, project_uid)
        # The answer holds a secret, so it is not kept: a repeat finds the request id used.
        stored = deploy_pb2.CreateApiKeyResponse()
        if await answered_before(uow, database, principal, request, deploy_pb2.CreateApiKeyResponse) is not None:
            raise RequestIdReused(
                f"request_id {request.request_id!r} made a key already, and a secret is shown once; use a new one, and "
                "revoke the key if its secret was lost",
                field="request_id",
            )
        await remember_answer(uow, database, clock, principal, request, stored)
        scopes = {await _endpoint_uid(uow, project_uid, name): name for name in request.endpoints}
        return _add_key(
            uow, clock, project_uid, project, PROJECT_KEY, endpoint_uid="", names=scopes, expire_time=expire_time
        )


async def _endpoint_uid(uow: UnitOfWork, project_uid: str, name: str) -> str:
    check_id(name, "endpoints")
    row = await queries.endpoint(uow.session, project_uid, name)
    if row is None:
        raise EndpointNotFound(f"endpoint {name[:64]!r} does not exist in this project", field="endpoints")
    return row.uid


def _add_key(
    uow: UnitOfWork,
    clock: Clock,
    project_uid: str,
    project: str,
    kind: int,
    *,
    endpoint_uid: str,
    names: Mapping[str, str],
    expire_time: datetime | None,
) -> deploy_pb2.CreateApiKeyResponse:
    """Store a key; `names` of its endpoints by uid, none for every endpoint."""
    key = make_key(secrets.token_bytes(ID_BYTES + SECRET_BYTES))
    row = ApiKeyRow(
        id=key.id,
        project_uid=project_uid,
        kind=kind,
        endpoint_uid=endpoint_uid,
        endpoint_uids=[] if endpoint_uid else list(names),
        secret_sha256=key.sha256,
        expire_time=expire_time,
        revoke_time=None,
        create_time=clock.now(),
        revision=1,
    )
    uow.session.add(row)
    uow.project(key_access(row))
    return deploy_pb2.CreateApiKeyResponse(api_key=api_key_to_proto(row, project, names), secret=key.credential)


async def revoke_api_key(
    database: Database, clock: Clock, project_uid: str, project: str, key_id: str
) -> deploy_pb2.ApiKey:
    """Revoke a key; revoking it again changes nothing.

    Raises:
        ApiKeyNotFound: not a key of this project.
    """
    async with database.unit_of_work() as uow:
        row = await queries.api_key(uow.session, project_uid, key_id)
        if row is None:
            raise ApiKeyNotFound(f"key {key_id[:64]!r} does not exist in this project", field="name")
        revoke(uow, clock, row)
        names = await queries.endpoint_names(uow.session, [row.endpoint_uid, *row.endpoint_uids])
        return api_key_to_proto(row, project, names)


def revoke(uow: UnitOfWork, clock: Clock, row: ApiKeyRow) -> None:
    """Stop a key."""
    if row.revoke_time is not None:
        return
    row.revoke_time = clock.now()
    row.revision += 1
    uow.session.add(row)
    uow.project(key_access(row))


async def rotate_endpoint_key(
    database: Database, clock: Clock, project_uid: str, project: str, endpoint: str, kind: int
) -> deploy_pb2.CreateApiKeyResponse:
    """Make a new primary or secondary key; the old one of this kind stops, the other kind works on.

    Raises:
        EndpointNotFound: not an endpoint of this project.
    """
    async with database.unit_of_work() as uow:
        row = await queries.endpoint_locked(uow.session, database, project_uid, endpoint)
        if row is None:
            raise EndpointNotFound(f"endpoint {endpoint!r} does not exist in this project", field="name")
        for old in await queries.endpoint_keys(uow.session, row.uid, kind):
            revoke(uow, clock, old)
        names = {row.uid: endpoint}
        return _add_key(uow, clock, project_uid, project, kind, endpoint_uid=row.uid, names=names, expire_time=None)
