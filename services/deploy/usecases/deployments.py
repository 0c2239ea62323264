"""Create, scale and delete deployments. The reconciler does the rest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime

from modelyard.deploy.v1 import deploy_pb2

from chassis.clock import Clock
from chassis.database import Database, UnitOfWork
from chassis.ids import new_uid
from chassis.names import check_id
from chassis.rpc.checks import problem_from_checks
from chassis.rpc.idempotency import answered_before, remember_answer
from services.deploy.domain.deployments import DeploymentState, check_instance_count
from services.deploy.domain.errors import DeploymentHasTraffic, DeploymentNotFound, DeploymentNotManaged
from services.deploy.domain.traffic import without
from services.deploy.events.published import deployment_changed
from services.deploy.storage import queries
from services.deploy.storage.convert import DEPLOYMENT, deployment_to_proto
from services.deploy.storage.tables import DeploymentRow, EndpointRow, PoolRow
from services.deploy.usecases.acceptance import (
    Answers,
    Limits,
    check_name,
    check_own_pools,
    check_quota,
    check_quote,
    check_shape,
    promise,
)
from services.deploy.usecases.endpoints import SERVERLESS, check_etag, load_endpoint, mark_deleting
from services.deploy.usecases.states import move
from services.deploy.usecases.versions import caught_up

Ask = Callable[[], Awaitable[Answers]]


async def create_deployment(
    database: Database,
    clock: Clock,
    *,
    principal: str,
    project_uid: str,
    project: str,
    endpoint: str,
    request: deploy_pb2.CreateDeploymentRequest,
    ask: Ask,
    limits: Limits,
) -> deploy_pb2.Deployment:
    """Accept a deployment against a valid quote; WatchDeployment shows how it becomes active.

    Raises:
        Problem: the catalog's refusal, such as POLICY_REFUSED.
        QuoteExpired, QuoteMismatch: see `check_quote`.
        VersionRetired, VersionDeprecated: the catalog announced it after it was asked.
        DeploymentExists, QuotaExceeded, CapacityExceeded: naming what is there and what is allowed.
    """
    check_id(request.deployment_id, "deployment_id")
    if request.request_id:
        # A repeat gets its answer without the neighbours, also after the quote expired or the endpoint went.
        async with database.unit_of_work() as uow:
            before = await answered_before(uow, database, principal, request, deploy_pb2.Deployment)
        if before is not None:
            return before
    answers = await ask()
    now = clock.now()
    async with database.unit_of_work() as uow:
        owner = await load_endpoint(uow, database, project_uid, endpoint)
        # Again, under the endpoint's lock: two repeats may have come at once.
        before = await answered_before(uow, database, principal, request, deploy_pb2.Deployment)
        if before is not None:
            return before
        check_shape(request, owner.kind, endpoint)
        check_quote(answers.quote, request, answers.version.name, project_uid, now)
        refuse_failed(answers)
        existing = await queries.deployments_of(uow.session, [owner.uid])
        check_name(request.deployment_id, endpoint, existing)
        check_quota(endpoint, existing, limits)
        answers = replace(answers, version=await caught_up(uow, database, answers.version))
        if owner.kind == SERVERLESS:
            row = await put_serverless(uow, database, owner, request, answers, now, limits)
        else:
            row = _row(owner, request, answers, now)
            await promise(uow, database, limits, row.uid, row.instance_count, row.memory_bytes)
            uow.session.add(row)
        if not owner.traffic and all(other.deleting for other in existing):
            # An endpoint whose only deployment gets no calls would be a trap; every later one begins at 0 %.
            owner.traffic = {row.name: 100}
            owner.revision += 1
            uow.session.add(owner)
        uow.emit(deployment_changed(row, now))
        answer = deployment_to_proto(row, [])
        await remember_answer(uow, database, clock, principal, request, answer)
        return answer


async def put_serverless(
    uow: UnitOfWork,
    database: Database,
    owner: EndpointRow,
    request: deploy_pb2.CreateDeploymentRequest,
    answers: Answers,
    now: datetime,
    limits: Limits,
) -> DeploymentRow:
    """Add a deployment that the shared pool serves; one that an external provider serves needs nothing here.

    Raises:
        CapacityExceeded: the pool needs an instance for which there is no room.
        QuotaExceeded: see `check_own_pools`.
    """
    row = _row(owner, request, answers, now)
    if not answers.version.HasField("provider"):
        pool = await _pool(uow, database, answers)
        row.pool_uid = pool.uid
        await promise(uow, database, limits, pool.uid, 1, pool.memory_bytes)
        pooled = await queries.own_versions_on_pools(uow.session, owner.project_uid)
        check_own_pools(pooled, owner.project, answers.version.name, limits)
    uow.session.add(row)
    return row


def refuse_failed(answers: Answers) -> None:
    """Refuse what the catalog refuses.

    Raises:
        Problem: with the reason of the gravest check, and what all of them say.
    """
    refusal = problem_from_checks(answers.checks)
    if refusal is not None:
        raise refusal


def _row(
    owner: EndpointRow, request: deploy_pb2.CreateDeploymentRequest, answers: Answers, now: datetime
) -> DeploymentRow:
    version, shape = answers.version, answers.instance_type
    return DeploymentRow(
        uid=new_uid(),
        endpoint_uid=owner.uid,
        project_uid=owner.project_uid,
        resource=DEPLOYMENT.format(project=owner.project, endpoint=owner.name, deployment=request.deployment_id),
        name=request.deployment_id,
        model_version=version.name,
        instance_type=request.instance_type,
        vcpus=shape.vcpus if shape else 0,
        memory_bytes=shape.memory_bytes if shape else 0,
        instance_count=request.instance_count,
        quote=request.quote,
        price_version=answers.quote.price_version,
        version_facts=version.SerializeToString(deterministic=True),
        retire_time=version.retire_time.ToDatetime(now.tzinfo) if version.HasField("retire_time") else None,
        pool_uid="",
        state=int(DeploymentState.CREATING),
        state_detail="",
        deleting=False,
        failed_starts=0,
        wanted_revision=1,
        revision=1,
        create_time=now,
    )


async def _pool(uow: UnitOfWork, database: Database, answers: Answers) -> PoolRow:
    """The shared pool of a version, made when this is its first deployment.

    Its next instance starts from the newest facts, and starts that failed before are forgotten.
    """
    version, table = answers.version, queries.table(PoolRow)
    facts = version.SerializeToString(deterministic=True)
    made = PoolRow(
        uid=new_uid(),
        model_version=version.name,
        version_facts=facts,
        vcpus=version.serving.min_vcpus,
        memory_bytes=version.serving.min_memory_bytes,
        idle_since=None,
        failed_starts=0,
    )
    await database.insert_ignoring(uow, table, [made.model_dump()], returning=[table.c.uid])
    pool = await queries.pool_of_version_locked(uow.session, database, version.name)
    pool.version_facts = facts
    pool.failed_starts = 0
    uow.session.add(pool)
    return pool


async def scale_deployment(
    database: Database, clock: Clock, project_uid: str, endpoint: str, name: str, count: int, etag: str, limits: Limits
) -> deploy_pb2.Deployment:
    """Change how many instances are wanted; the quote stays. The same size again tries what was given up again, which is
    UPDATING from then on: nobody who waits for the new try should take the old failure for its answer.

    Raises:
        DeploymentNotManaged: serverless deployments have no instances of their own.
        InstanceCountInvalid, CapacityExceeded: naming the limit.
    """
    async with database.unit_of_work() as uow:
        owner = await load_endpoint(uow, database, project_uid, endpoint)
        row = await _load(uow, database, owner, name)
        check_etag(etag, row.wanted_revision, f"deployment {name!r}")
        if row.deleting:
            raise DeploymentNotFound(f"deployment {name!r} is being deleted", field="name")
        if owner.kind == SERVERLESS:
            raise DeploymentNotManaged(f"deployment {name!r} is serverless and has no instances of its own")
        check_instance_count(count)
        if count > row.instance_count:
            await promise(uow, database, limits, row.uid, count, row.memory_bytes)
        if count != row.instance_count or row.failed_starts:
            row.instance_count = count
            row.failed_starts = 0
            row.wanted_revision += 1
            uow.session.add(row)
            if row.state == DeploymentState.FAILED:
                move(uow, clock, row, DeploymentState.UPDATING)
            else:
                row.revision += 1
        return deployment_to_proto(row, await queries.instances_of(uow.session, [row.uid]))


async def delete_deployment(
    database: Database, clock: Clock, project_uid: str, endpoint: str, name: str, etag: str, *, force: bool
) -> deploy_pb2.Deployment:
    """Delete a deployment; with `force` also one that takes traffic, whose share goes to the others.

    Raises:
        DeploymentHasTraffic: it takes traffic and `force` is not set.
    """
    async with database.unit_of_work() as uow:
        owner = await load_endpoint(uow, database, project_uid, endpoint)
        row = await _load(uow, database, owner, name)
        check_etag(etag, row.wanted_revision, f"deployment {name!r}")
        share = owner.traffic.get(name, 0)
        if share and not force:
            raise DeploymentHasTraffic(
                f"deployment {name!r} takes {share} % of the traffic; move it away first, or set force"
            )
        if share:
            owner.traffic = without(owner.traffic, name)
            owner.revision += 1
            uow.session.add(owner)
        mark_deleting(uow, row, clock)
        return deployment_to_proto(row, await queries.instances_of(uow.session, [row.uid]))


async def _load(uow: UnitOfWork, database: Database, owner: EndpointRow, name: str) -> DeploymentRow:
    row = await queries.deployment_locked(uow.session, database, owner.uid, name)
    if row is None:
        raise DeploymentNotFound(f"deployment {name!r} is not behind endpoint {owner.name!r}", field="name")
    return row
