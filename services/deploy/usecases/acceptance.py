"""What deploy itself asks of a new deployment, besides what the catalog answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from modelyard.billing.v1 import billing_pb2
from modelyard.catalog.v1 import catalog_pb2
from modelyard.deploy.v1 import deploy_pb2
from modelyard.type.v1 import checks_pb2
from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.database import Database, UnitOfWork
from chassis.errors import InvalidArgument
from services.deploy.domain.capacity import Promise, Room, check_room
from services.deploy.domain.deployments import check_instance_count
from services.deploy.domain.errors import DeploymentExists, QuotaExceeded, QuoteExpired, QuoteMismatch
from services.deploy.storage import queries
from services.deploy.storage.tables import DeploymentRow
from services.deploy.usecases.endpoints import SERVERLESS


@dataclass(frozen=True, slots=True)
class Answers:
    """What billing and the catalog answered, asked before the transaction."""

    quote: billing_pb2.Quote
    version: catalog_pb2.ModelVersion
    instance_type: catalog_pb2.InstanceType | None
    # What the catalog found; what it refuses is refused here.
    checks: Sequence[checks_pb2.Check] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """What the platform and an endpoint may hold."""

    deployments_per_endpoint_max: int
    instances_max: int
    memory_bytes_max: int
    # Models of its own that one project may have on the shared pool: each keeps an instance warm that nobody else uses.
    own_pools_per_project_max: int = 2

    @property
    def room(self) -> Room:
        """What the platform may hold."""
        return Room(self.instances_max, self.memory_bytes_max)


def check_shape(request: deploy_pb2.CreateDeploymentRequest, kind: int, endpoint: str) -> None:
    """A serverless endpoint takes no hardware, a managed one needs it.

    Raises:
        InvalidArgument, InstanceCountInvalid: naming the endpoint and what is allowed.
    """
    if kind == SERVERLESS:
        if request.instance_type or request.instance_count:
            raise InvalidArgument(
                f"endpoint {endpoint!r} is serverless: leave instance_type and instance_count empty",
                field="instance_type",
            )
        return
    if not request.instance_type:
        raise InvalidArgument(f"endpoint {endpoint!r} is managed: set instance_type", field="instance_type")
    check_instance_count(request.instance_count)


def check_quote(
    quote: billing_pb2.Quote,
    request: deploy_pb2.CreateDeploymentRequest,
    version: str,
    project_uid: str,
    now: datetime,
) -> None:
    """The quote is this project's, holds, and is for what is deployed.

    Raises:
        QuoteExpired: naming when.
        QuoteMismatch: naming both sides.
    """
    way_out = "`modelyard quote` makes a new one"
    if quote.project_uid != project_uid:
        raise QuoteMismatch(f"quote {request.quote!r} was made for another project; {way_out}", field="quote")
    expires = quote.expire_time.ToDatetime(now.tzinfo)
    if expires <= now:
        raise QuoteExpired(f"quote {request.quote!r} expired at {expires.isoformat()}; {way_out}", field="quote")
    # A managed quote may name the version that is to run on the type, and need not.
    pairs = ((quote.instance_type, request.instance_type), (quote.model_version or version, version))
    for offered, wanted in pairs:
        if offered != wanted:
            raise QuoteMismatch(
                f"quote {request.quote!r} is for {offered or quote.model_version!r}, not for {wanted or version!r}; "
                f"{way_out}",
                field="quote",
            )


def check_name(name: str, endpoint: str, existing: Sequence[DeploymentRow]) -> None:
    """The name is free behind this endpoint.

    Raises:
        DeploymentExists: it is not.
    """
    if any(row.name == name for row in existing):
        raise DeploymentExists(
            f"deployment {name!r} exists behind endpoint {endpoint!r}; choose another name", field="deployment_id"
        )


def check_quota(endpoint: str, existing: Sequence[DeploymentRow], limits: Limits) -> None:
    """The endpoint may have one more.

    Raises:
        QuotaExceeded: naming how many it has and may have.
    """
    if len(existing) >= limits.deployments_per_endpoint_max:
        raise QuotaExceeded(
            f"endpoint {endpoint!r} has {len(existing)} deployments; "
            f"{limits.deployments_per_endpoint_max} are allowed: delete one"
        )


def check_own_pools(pooled: Collection[str], project: str, model_version: str, limits: Limits) -> None:
    """The project may have this version on the shared pool, where it is one of its own.

    Args:
        pooled: Versions of its own that it has there.

    Raises:
        QuotaExceeded: naming how many it has there and may have.
    """
    if not model_version.startswith(f"projects/{project}/") or model_version in pooled:
        return
    if len(pooled) >= limits.own_pools_per_project_max:
        raise QuotaExceeded(
            f"{len(pooled)} of the project's own models are on the shared pool; {limits.own_pools_per_project_max} are "
            "allowed (MODELYARD_DEPLOY_OWN_POOLS_PER_PROJECT_MAX): delete such a deployment, or deploy on managed compute"
        )


async def promises(session: AsyncSession) -> dict[str, Promise]:
    """What every deployment and every pool may count on, by uid."""
    living = await queries.living_instances(session)
    deployments = await queries.living_deployments(session)
    wanted = {
        row.pool_uid or row.uid: 1 if row.pool_uid else row.instance_count for row in deployments if not row.deleting
    }
    memory = {row.owner_uid: row.memory_bytes for row in living} | {row.uid: row.memory_bytes for row in deployments}
    memory |= {row.uid: row.memory_bytes for row in await queries.pools(session)}
    lives = Counter(row.owner_uid for row in living)
    return {uid: Promise(wanted.get(uid, 0), lives[uid], memory[uid]) for uid in wanted.keys() | lives.keys()}


async def promise(
    uow: UnitOfWork, database: Database, limits: Limits, owner_uid: str, count: int, memory_bytes: int
) -> None:
    """Let a deployment or pool count on a size; nobody else promises anything until the transaction ends.

    Raises:
        CapacityExceeded: see `check_room`.
    """
    await queries.lock_capacity(uow.session, database)
    check_room(await promises(uow.session), limits.room, owner_uid, count, memory_bytes)
