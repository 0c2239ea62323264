"""Create, scale and delete deployments. The reconciler does the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from modelyard.billing.v1 import billing_pb2
from modelyard.catalog.v1 import catalog_pb2
from modelyard.deploy.v1 import deploy_pb2

from chassis.clock import Clock
from chassis.database import Database, UnitOfWork
from chassis.errors import InvalidArgument
from chassis.ids import new_uid
from chassis.names import check_id
from chassis.rpc.idempotency import answered_before, remember_answer
from services.deploy.domain.deployments import DeploymentState, check_instance_count
from services.deploy.domain.errors import (
    CapacityExceeded,
    DeploymentExists,
    DeploymentHasTraffic,
    DeploymentNotFound,
    DeploymentNotManaged,
    InstanceTypeTooSmall,
    ModelNotRunnable,
    QuotaExceeded,
    QuoteExpired,
    QuoteMismatch,
    VersionDeprecated,
    VersionRetired,
)
from services.deploy.domain.traffic import without
from services.deploy.events.published import deployment_changed
from services.deploy.storage import queries
from services.deploy.storage.convert import DEPLOYMENT, deployment_to_proto
from services.deploy.storage.tables import DeploymentRow, EndpointRow, PoolRow
from services.deploy.usecases.endpoints import SERVERLESS, check_etag, load_endpoint, mark_deleting

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Answers:
    """What billing and the catalog answered, asked before the transaction."""

    quote: billing_pb2.Quote
    version: catalog_pb2.ModelVersion
    instance_type: catalog_pb2.InstanceType | None


@dataclass(frozen=True, slots=True)
class Limits:
    """What the platform and an endpoint may hold."""

    deployments_per_endpoint_max: int
    instances_max: int
    memory_bytes_max: int


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
        QuoteExpired, QuoteMismatch: see `_check_quote`.
        VersionRetired, VersionDeprecated, ModelNotRunnable, InstanceTypeTooSmall: see `check_version`.
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
        _check_shape(request, owner)
        _check_quote(request, answers, project_uid, now)
        check_version(answers)
        existing = await queries.deployments_of(uow.session, [owner.uid])
        if any(row.name == request.deployment_id for row in existing):
            raise DeploymentExists(
                f"deployment {request.deployment_id!r} exists behind endpoint {endpoint!r}; choose another name",
                field="deployment_id",
            )
        if len(existing) >= limits.deployments_per_endpoint_max:
            raise QuotaExceeded(
                f"endpoint {endpoint!r} has {len(existing)} deployments; "
                f"{limits.deployments_per_endpoint_max} are allowed: delete one"
            )
        if owner.kind == SERVERLESS:
            row = await put_serverless(uow, database, owner, request, answers, now, limits)
        else:
            row = _row(owner, request, answers, now)
            await check_capacity(uow, database, limits, row.uid, row.instance_count, row.memory_bytes)
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
    """
    row = _row(owner, request, answers, now)
    if not answers.version.HasField("provider"):
        pool = await _pool(uow, database, answers)
        row.pool_uid = pool.uid
        await check_capacity(uow, database, limits, pool.uid, 1, pool.memory_bytes)
    uow.session.add(row)
    return row


def _check_shape(request: deploy_pb2.CreateDeploymentRequest, owner: EndpointRow) -> None:
    if owner.kind == SERVERLESS:
        if request.instance_type or request.instance_count:
            raise InvalidArgument(
                f"endpoint {owner.name!r} is serverless: leave instance_type and instance_count empty",
                field="instance_type",
            )
        return
    if not request.instance_type:
        raise InvalidArgument(f"endpoint {owner.name!r} is managed: set instance_type", field="instance_type")
    check_instance_count(request.instance_count)


def _check_quote(
    request: deploy_pb2.CreateDeploymentRequest, answers: Answers, project_uid: str, now: datetime
) -> None:
    """The quote is this project's, holds, and is for what is deployed.

    Raises:
        QuoteExpired: naming when.
        QuoteMismatch: naming both sides.
    """
    quote = answers.quote
    way_out = "`modelyard quote` makes a new one"
    if quote.project_uid != project_uid:
        raise QuoteMismatch(f"quote {request.quote!r} was made for another project; {way_out}", field="quote")
    expires = quote.expire_time.ToDatetime(now.tzinfo)
    if expires <= now:
        raise QuoteExpired(f"quote {request.quote!r} expired at {expires.isoformat()}; {way_out}", field="quote")
    offered = quote.instance_type or quote.model_version
    wanted = request.instance_type or answers.version.name
    if offered != wanted:
        raise QuoteMismatch(f"quote {request.quote!r} is for {offered!r}, not for {wanted!r}; {way_out}", field="quote")


def check_version(answers: Answers) -> None:
    """The version takes new deployments and fits.

    Raises:
        VersionRetired, VersionDeprecated: by the catalog's stage.
        ModelNotRunnable: no engine or no artifacts here.
        InstanceTypeTooSmall: naming what it needs and what the type has.
    """
    version, shape = answers.version, answers.instance_type
    if version.stage == catalog_pb2.LIFECYCLE_STAGE_RETIRED:
        raise VersionRetired(f"{version.name} is retired; `modelyard models` shows those that take deployments")
    if version.stage == catalog_pb2.LIFECYCLE_STAGE_DEPRECATED:
        raise VersionDeprecated(f"{version.name} is deprecated and takes no new deployments")
    option = catalog_pb2.DEPLOYMENT_OPTION_SERVERLESS if shape is None else catalog_pb2.DEPLOYMENT_OPTION_MANAGED
    if option not in version.deployment_options:
        raise ModelNotRunnable(f"{version.name} is not offered this way")
    is_here = bool(version.artifacts) or version.HasField("provider")
    if version.usability != catalog_pb2.USABILITY_RUNS_HERE or not is_here:
        raise ModelNotRunnable(f"{version.name} cannot run here: {version.usability_detail}")
    if shape is None:
        return
    if not shape.provider:
        raise ModelNotRunnable(
            f"no compute provider of this platform has {shape.name}; `modelyard instance-types` shows which"
        )
    needs = version.serving
    if shape.vcpus < needs.min_vcpus or shape.memory_bytes < needs.min_memory_bytes:
        raise InstanceTypeTooSmall(
            f"{version.name} needs {needs.min_vcpus} cores and {needs.min_memory_bytes / GIB:g} GiB; "
            f"{shape.name} has {shape.vcpus} and {shape.memory_bytes / GIB:g}",
            field="instance_type",
        )


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


async def check_capacity(
    uow: UnitOfWork, database: Database, limits: Limits, owner_uid: str, count: int, memory_bytes: int
) -> None:
    """Refuse a size of a deployment or pool that the platform has no room for.

    What is promised counts, not what runs yet: each deployment and pool with the larger of what it wants and what of it
    still lives.

    Raises:
        CapacityExceeded: naming what is promised, what is wanted and what is allowed.
    """
    await queries.lock_capacity(uow.session, database)
    living = await queries.living_instances(uow.session)
    deployments = await queries.living_deployments(uow.session)
    wanted = {
        row.pool_uid or row.uid: 1 if row.pool_uid else row.instance_count for row in deployments if not row.deleting
    }
    memory = {row.owner_uid: row.memory_bytes for row in living} | {row.uid: row.memory_bytes for row in deployments}
    memory |= {row.uid: row.memory_bytes for row in await queries.pools(uow.session)}
    lives = Counter(row.owner_uid for row in living)
    promised = {uid: max(wanted.get(uid, 0), lives[uid]) for uid in wanted.keys() | lives.keys()}
    more = max(count, lives[owner_uid]) - promised.get(owner_uid, 0)
    if more <= 0:
        return
    instances = sum(promised.values())
    if instances + more > limits.instances_max:
        raise CapacityExceeded(
            f"{instances} instances run or are wanted and {more} more are asked for; {limits.instances_max} are allowed on "
            "this platform: scale another deployment down, or raise MODELYARD_DEPLOY_INSTANCES_MAX"
        )
    used = sum(promised[uid] * memory[uid] for uid in promised)
    if used + more * memory_bytes > limits.memory_bytes_max:
        raise CapacityExceeded(
            f"instances hold {used / GIB:.1f} GiB and {more * memory_bytes / GIB:.1f} GiB more are asked for; "
            f"{limits.memory_bytes_max / GIB:.1f} GiB are allowed on this platform: scale another deployment down, or "
            "raise MODELYARD_DEPLOY_INSTANCES_MEMORY_BYTES_MAX"
        )


async def scale_deployment(
    database: Database, project_uid: str, endpoint: str, name: str, count: int, etag: str, limits: Limits
) -> deploy_pb2.Deployment:
    """Change how many instances are wanted; the quote stays. The same size again tries what was given up again.

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
            await check_capacity(uow, database, limits, row.uid, count, row.memory_bytes)
        if count != row.instance_count or row.failed_starts:
            row.instance_count = count
            row.failed_starts = 0
            row.wanted_revision += 1
            row.revision += 1
            uow.session.add(row)
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
