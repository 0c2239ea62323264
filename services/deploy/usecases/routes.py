"""Routes: what inference must know of an endpoint, projected whenever it changes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from modelyard.catalog.v1 import catalog_pb2
from modelyard.deploy.v1 import routes_pb2

from chassis.database import UnitOfWork
from chassis.timestamps import timestamp
from services.deploy.domain.deployments import InstanceState
from services.deploy.events.published import route as route_projection
from services.deploy.storage import queries
from services.deploy.storage.tables import DeploymentRow, EndpointRow, InstanceRow
from services.deploy.usecases.endpoints import SERVERLESS

# The name of the one model in each instance's Triton.
MODEL_NAME = "model"


async def project_routes(uow: UnitOfWork, endpoints: Sequence[EndpointRow], living: Sequence[InstanceRow]) -> int:
    """Project every route that differs from what was projected last; return how many. `endpoints` are locked.

    Comparing digests, not remembering what changed, is what makes a missed change impossible.
    """
    by_endpoint: dict[str, list[DeploymentRow]] = {}
    for deployment in await queries.deployments_of(uow.session, [row.uid for row in endpoints]):
        by_endpoint.setdefault(deployment.endpoint_uid, []).append(deployment)
    targets = ready_targets(living)
    changed = 0
    for endpoint in endpoints:
        value = b"" if endpoint.deleted else _route(endpoint, by_endpoint.get(endpoint.uid, []), targets)
        digest = hashlib.sha256(value).hexdigest() if value else ""
        if digest == endpoint.route_digest:
            continue
        endpoint.route_digest = digest
        endpoint.route_sequence += 1
        uow.session.add(endpoint)
        uow.project(route_projection(endpoint.uid, value, endpoint.route_sequence))
        changed += 1
    return changed


def ready_targets(living: Sequence[InstanceRow]) -> dict[str, list[routes_pb2.RouteTarget]]:
    """Instances that answer, by the deployment or pool they belong to, ordered by uid."""
    targets: dict[str, list[routes_pb2.RouteTarget]] = {}
    for instance in sorted(living, key=lambda row: row.uid):
        if instance.state == InstanceState.READY:
            targets.setdefault(instance.owner_uid, []).append(
                routes_pb2.RouteTarget(instance_uid=instance.uid, address=instance.address, model_name=MODEL_NAME)
            )
    return targets


def _route(
    endpoint: EndpointRow,
    deployments: Sequence[DeploymentRow],
    targets: Mapping[str, list[routes_pb2.RouteTarget]],
) -> bytes:
    value = routes_pb2.Route(
        endpoint_uid=endpoint.uid,
        endpoint=endpoint.name,
        project_uid=endpoint.project_uid,
        project=endpoint.project,
        serverless=endpoint.kind == SERVERLESS,
        deployments=[
            _route_deployment(endpoint, row, targets.get(row.pool_uid or row.uid, []))
            for row in deployments
            if not row.deleting
        ],
        create_time=timestamp(endpoint.create_time),
    )
    return value.SerializeToString(deterministic=True)


def _route_deployment(
    endpoint: EndpointRow, row: DeploymentRow, targets: Sequence[routes_pb2.RouteTarget]
) -> routes_pb2.RouteDeployment:
    version = catalog_pb2.ModelVersion.FromString(row.version_facts)
    return routes_pb2.RouteDeployment(
        uid=row.uid,
        deployment=row.name,
        weight=endpoint.traffic.get(row.name, 0),
        model_version=row.model_version,
        tasks=version.tasks,
        serving=version.serving,
        # Managed calls are recorded without a rate: the instances are what is billed.
        price_version=row.price_version if endpoint.kind == SERVERLESS else "",
        quote=row.quote,
        targets=targets,
        retire_time=None if row.retire_time is None else timestamp(row.retire_time),
        deprecation_time=version.deprecation_time if version.HasField("deprecation_time") else None,
        provider=version.provider if version.HasField("provider") else None,
    )
