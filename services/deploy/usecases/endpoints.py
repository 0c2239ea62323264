"""Endpoints and their traffic."""

from __future__ import annotations

from modelyard.deploy.v1 import deploy_pb2

from chassis.clock import Clock
from chassis.database import Database, UnitOfWork
from chassis.errors import EtagMismatch, InvalidArgument
from chassis.ids import new_uid
from chassis.names import check_id
from chassis.rpc.idempotency import answered_before, remember_answer
from services.deploy.domain.deployments import DeploymentState
from services.deploy.domain.errors import EndpointExists, EndpointNotFound, QuotaExceeded
from services.deploy.domain.traffic import check_traffic
from services.deploy.storage import queries
from services.deploy.storage.convert import endpoint_to_proto
from services.deploy.storage.tables import DeploymentRow, EndpointRow
from services.deploy.usecases.projects import revoke
from services.deploy.usecases.states import move

MANAGED, SERVERLESS = 1, 2


async def create_endpoint(
    database: Database,
    clock: Clock,
    *,
    principal: str,
    project_uid: str,
    project: str,
    request: deploy_pb2.CreateEndpointRequest,
    endpoints_max: int,
) -> deploy_pb2.Endpoint:
    """Create an endpoint without deployments.

    Raises:
        EndpointExists: the name is taken in this project.
        QuotaExceeded: the project has as many as it may.
    """
    check_id(request.endpoint_id, "endpoint_id")
    if request.kind not in (MANAGED, SERVERLESS):
        raise InvalidArgument("kind is ENDPOINT_KIND_MANAGED or ENDPOINT_KIND_SERVERLESS", field="kind")
    async with database.unit_of_work() as uow:
        # The project's row orders creations: two at once find neither the name free nor the request new.
        await queries.project_locked(uow.session, database, project_uid)
        before = await answered_before(uow, database, principal, request, deploy_pb2.Endpoint)
        if before is not None:
            return before
        if await queries.endpoint(uow.session, project_uid, request.endpoint_id) is not None:
            raise EndpointExists(
                f"endpoint {request.endpoint_id!r} exists in project {project!r}; choose another name",
                field="endpoint_id",
            )
        check_endpoints_left(project, await queries.endpoint_count(uow.session, project_uid), endpoints_max)
        row = EndpointRow(
            uid=new_uid(),
            project_uid=project_uid,
            project=project,
            name=request.endpoint_id,
            kind=request.kind,
            traffic={},
            deleted=False,
            revision=1,
            route_sequence=0,
            route_digest="",
            create_time=clock.now(),
        )
        uow.session.add(row)
        answer = endpoint_to_proto(row, [])
        await remember_answer(uow, database, clock, principal, request, answer)
        return answer


def check_endpoints_left(project: str, count: int, endpoints_max: int) -> None:
    """The project may have one more endpoint.

    Raises:
        QuotaExceeded: naming how many it has and may have.
    """
    if count >= endpoints_max:
        raise QuotaExceeded(f"project {project!r} has {count} endpoints; {endpoints_max} are allowed: delete one")


async def update_traffic(
    database: Database, project_uid: str, name: str, traffic: dict[str, int], etag: str
) -> deploy_pb2.Endpoint:
    """Set the whole split.

    Raises:
        TrafficNotWhole, DeploymentNotFound: see `check_traffic`.
        EtagMismatch: it changed since it was read.
    """
    async with database.unit_of_work() as uow:
        row = await load_endpoint(uow, database, project_uid, name, etag)
        deployments = await queries.deployments_of(uow.session, [row.uid])
        row.traffic = check_traffic(traffic, {d.name for d in deployments if not d.deleting})
        row.revision += 1
        uow.session.add(row)
        return endpoint_to_proto(row, deployments)


async def delete_endpoint(database: Database, clock: Clock, project_uid: str, name: str, etag: str) -> None:
    """Delete an endpoint with its deployments and keys; the reconciler ends the instances."""
    async with database.unit_of_work() as uow:
        row = await load_endpoint(uow, database, project_uid, name, etag)
        await end_endpoint(uow, database, clock, row)


async def end_endpoint(uow: UnitOfWork, database: Database, clock: Clock, row: EndpointRow) -> None:
    """Nothing is wanted of a locked endpoint any more: its deployments and keys end with it."""
    for deployment in await queries.deployments_of_locked(uow.session, database, row.uid):
        mark_deleting(uow, deployment, clock)
    for key in await queries.endpoint_keys(uow.session, row.uid):
        revoke(uow, clock, key)
    row.traffic = {}
    row.deleted = True
    row.revision += 1
    uow.session.add(row)


def mark_deleting(uow: UnitOfWork, deployment: DeploymentRow, clock: Clock) -> None:
    """What is wanted of a deployment from now on is nothing; marking it again changes nothing."""
    if deployment.deleting:
        return
    deployment.deleting = True
    deployment.wanted_revision += 1
    move(uow, clock, deployment, DeploymentState.DELETING)


async def load_endpoint(
    uow: UnitOfWork, database: Database, project_uid: str, name: str, etag: str = ""
) -> EndpointRow:
    """An endpoint that is about to change, locked.

    Raises:
        EndpointNotFound: not in this project.
        EtagMismatch: it changed since it was read.
    """
    row = await queries.endpoint_locked(uow.session, database, project_uid, name)
    if row is None:
        raise EndpointNotFound(f"endpoint {name!r} does not exist in this project", field="name")
    check_etag(etag, row.revision, f"endpoint {name!r}")
    return row


def check_etag(etag: str, revision: int, what: str) -> None:
    """Refuse a change of something that is no longer what was read; an empty etag changes whatever is there."""
    if etag and etag != str(revision):
        raise EtagMismatch(f"{what} has etag {str(revision)!r} now, not {etag[:32]!r}; read it again", field="etag")
