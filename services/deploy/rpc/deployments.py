"""DeployService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from google.protobuf.empty_pb2 import Empty
from modelyard.deploy.v1 import deploy_pb2, deploy_pb2_grpc
from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.access import current_caller
from chassis.clock import Clock
from chassis.database import Database
from chassis.errors import PASSING, InvalidArgument, Problem
from chassis.paging import page_size, page_token_decode, page_token_encode, split_page
from services.deploy.compute.interface import ComputeProvider
from services.deploy.domain.deployments import DeploymentState
from services.deploy.domain.errors import DeploymentNotFound, EndpointNotFound
from services.deploy.rpc.neighbours import Neighbours
from services.deploy.storage import queries
from services.deploy.storage.convert import (
    DEPLOYMENT,
    ENDPOINT,
    deployment_to_proto,
    endpoint_to_proto,
    instance_to_proto,
)
from services.deploy.storage.tables import DeploymentRow, EndpointRow, InstanceRow
from services.deploy.usecases import deployments, endpoints
from services.deploy.usecases.acceptance import Limits
from services.deploy.usecases.can_deploy import can_deploy
from services.deploy.usecases.reconcile import Reconciler

Context = Any
LOG_LINES_DEFAULT, LOG_LINES_MAX = 100, 5000
# A watch looks again after this long even when nothing signalled, seconds.
WATCH_IDLE_S = 5.0


class DeployServicer(deploy_pb2_grpc.DeployServiceServicer):
    """Endpoints and deployments; what is wanted is written here, and the reconciler is woken."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        provider: ComputeProvider,
        reconciler: Reconciler,
        neighbours: Neighbours,
        limits: Limits,
        *,
        endpoints_max: int,
    ) -> None:
        self._database = database
        self._clock = clock
        self._provider = provider
        self._reconciler = reconciler
        self._neighbours = neighbours
        self._limits = limits
        self._endpoints_max = endpoints_max

    def _changed(self) -> None:
        """Wake the reconciler, and watchers: what is wanted shows in a deployment, too."""
        self._reconciler.wanted.signal()
        self._reconciler.observed.signal()

    async def CreateEndpoint(self, request: deploy_pb2.CreateEndpointRequest, context: Context) -> deploy_pb2.Endpoint:
        caller = current_caller()
        answer = await endpoints.create_endpoint(
            self._database,
            self._clock,
            principal=caller.principal,
            project_uid=caller.project_uid,
            project=caller.project,
            request=request,
            endpoints_max=self._endpoints_max,
        )
        self._changed()
        return answer

    async def GetEndpoint(self, request: deploy_pb2.GetEndpointRequest, context: Context) -> deploy_pb2.Endpoint:
        ids = ENDPOINT.parse(request.name)
        async with self._database.reader() as session:
            row = await _endpoint(session, current_caller().project_uid, ids["endpoint"])
            return endpoint_to_proto(row, await queries.deployments_of(session, [row.uid]))

    async def ListEndpoints(
        self, request: deploy_pb2.ListEndpointsRequest, context: Context
    ) -> deploy_pb2.ListEndpointsResponse:
        project_uid = current_caller().project_uid
        scope = f"ListEndpoints/{project_uid}"
        (after,) = page_token_decode(request.page_token, scope, ("",))
        limit = page_size(request.page_size)
        async with self._database.reader() as session:
            found = await queries.endpoints_page(session, project_uid, after, limit + 1)
            rows, more = split_page(found, limit)
            behind = await queries.deployments_of(session, [row.uid for row in rows])
        return deploy_pb2.ListEndpointsResponse(
            endpoints=[endpoint_to_proto(row, [d for d in behind if d.endpoint_uid == row.uid]) for row in rows],
            next_page_token=page_token_encode(scope, [rows[-1].name]) if more else "",
        )

    async def UpdateEndpointTraffic(
        self, request: deploy_pb2.UpdateEndpointTrafficRequest, context: Context
    ) -> deploy_pb2.Endpoint:
        name = ENDPOINT.parse(request.name)["endpoint"]
        answer = await endpoints.update_traffic(
            self._database, current_caller().project_uid, name, dict(request.traffic), request.etag
        )
        self._changed()
        return answer

    async def DeleteEndpoint(self, request: deploy_pb2.DeleteEndpointRequest, context: Context) -> Empty:
        name = ENDPOINT.parse(request.name)["endpoint"]
        await endpoints.delete_endpoint(self._database, self._clock, current_caller().project_uid, name, request.etag)
        self._changed()
        return Empty()

    async def CreateDeployment(
        self, request: deploy_pb2.CreateDeploymentRequest, context: Context
    ) -> deploy_pb2.Deployment:
        caller = current_caller()
        answer = await deployments.create_deployment(
            self._database,
            self._clock,
            principal=caller.principal,
            project_uid=caller.project_uid,
            project=caller.project,
            endpoint=ENDPOINT.parse(request.parent, "parent")["endpoint"],
            request=request,
            ask=lambda: self._neighbours.ask(
                caller.project, request.quote, request.model_version, request.instance_type
            ),
            limits=self._limits,
        )
        self._changed()
        return answer

    async def CanDeploy(self, request: deploy_pb2.CanDeployRequest, context: Context) -> deploy_pb2.CanDeployResponse:
        caller = current_caller()
        wanted = deploy_pb2.CreateDeploymentRequest(
            parent=request.parent,
            deployment_id=request.deployment_id,
            model_version=request.model_version,
            instance_type=request.instance_type,
            instance_count=request.instance_count or (1 if request.instance_type else 0),
            quote=request.quote,
        )
        endpoint = ENDPOINT.parse(request.parent, "parent")["endpoint"]
        answers = await self._neighbours.check(caller.project, request.model_version, request.instance_type)
        quote_problem: Problem | None = None
        try:
            if request.quote:
                answers = replace(answers, quote=await self._neighbours.quote(caller.project, request.quote))
        except Problem as problem:
            if problem.code in PASSING:
                raise
            quote_problem = problem
        async with self._database.reader() as session:
            checks = await can_deploy(
                session,
                self._clock.now(),
                project_uid=caller.project_uid,
                project=caller.project,
                endpoint=endpoint,
                request=wanted,
                answers=answers,
                quote_problem=quote_problem,
                limits=self._limits,
                endpoints_max=self._endpoints_max,
            )
        return deploy_pb2.CanDeployResponse(
            allowed=all(check.passed for check in checks), checks=checks, model_version=answers.version.name
        )

    async def GetDeployment(self, request: deploy_pb2.GetDeploymentRequest, context: Context) -> deploy_pb2.Deployment:
        async with self._database.reader() as session:
            row = await _deployment(session, current_caller().project_uid, request.name)
            return (await _with_instances(session, [row]))[0]

    async def ListDeployments(
        self, request: deploy_pb2.ListDeploymentsRequest, context: Context
    ) -> deploy_pb2.ListDeploymentsResponse:
        project_uid = current_caller().project_uid
        name = ENDPOINT.parse(request.parent, "parent")["endpoint"]
        scope = f"ListDeployments/{project_uid}/{name}"
        after = page_token_decode(request.page_token, scope, ("", ""))
        limit = page_size(request.page_size)
        async with self._database.reader() as session:
            endpoint_uid = "" if name == "-" else (await _endpoint(session, project_uid, name)).uid
            found = await queries.deployments_page(session, project_uid, endpoint_uid, after, limit + 1)
            rows, more = split_page(found, limit)
            shown = await _with_instances(session, rows)
        return deploy_pb2.ListDeploymentsResponse(
            deployments=shown,
            next_page_token=page_token_encode(scope, [rows[-1].resource, rows[-1].uid]) if more else "",
        )

    async def ScaleDeployment(
        self, request: deploy_pb2.ScaleDeploymentRequest, context: Context
    ) -> deploy_pb2.Deployment:
        ids = DEPLOYMENT.parse(request.name)
        answer = await deployments.scale_deployment(
            self._database,
            self._clock,
            current_caller().project_uid,
            ids["endpoint"],
            ids["deployment"],
            request.instance_count,
            request.etag,
            self._limits,
        )
        self._changed()
        return answer

    async def DeleteDeployment(
        self, request: deploy_pb2.DeleteDeploymentRequest, context: Context
    ) -> deploy_pb2.Deployment:
        ids = DEPLOYMENT.parse(request.name)
        answer = await deployments.delete_deployment(
            self._database,
            self._clock,
            current_caller().project_uid,
            ids["endpoint"],
            ids["deployment"],
            request.etag,
            force=request.force,
        )
        self._changed()
        return answer

    async def WatchDeployment(
        self, request: deploy_pb2.WatchDeploymentRequest, context: Context
    ) -> AsyncIterator[deploy_pb2.Deployment]:
        async with self._database.reader() as session:
            uid = (await _deployment(session, current_caller().project_uid, request.name)).uid
        seen = request.after_revision
        while True:
            changes = self._reconciler.observed.count
            async with self._database.reader() as session:
                row = await queries.deployment_by_uid(session, uid)
                if row is None:
                    return
                (answer,) = await _with_instances(session, [row])
            if row.revision > seen:
                seen = row.revision
                yield answer
            if row.state == DeploymentState.DELETED:
                return
            await self._reconciler.observed.wait(WATCH_IDLE_S, after=changes)

    async def GetDeploymentLogs(
        self, request: deploy_pb2.GetDeploymentLogsRequest, context: Context
    ) -> deploy_pb2.GetDeploymentLogsResponse:
        if not 0 <= request.lines <= LOG_LINES_MAX:
            raise InvalidArgument(f"lines {request.lines}; 0 to {LOG_LINES_MAX} are allowed", field="lines")
        if not request.instance_uid.isprintable():
            raise InvalidArgument(f"instance_uid {request.instance_uid[:64]!r} is no uid", field="instance_uid")
        async with self._database.reader() as session:
            row = await _deployment(session, current_caller().project_uid, request.name)
            instance = await queries.instance_of(session, row.uid, request.instance_uid)
        if instance is None:
            raise DeploymentNotFound(
                f"deployment {request.name!r} has no instance {request.instance_uid[:64]!r}"
                if request.instance_uid
                else f"deployment {request.name!r} has no instances of its own, and had none",
                field="instance_uid",
            )
        lines = await self._provider.logs(instance.uid, request.lines or LOG_LINES_DEFAULT)
        return deploy_pb2.GetDeploymentLogsResponse(instance_uid=instance.uid, lines=lines)

    async def ListInstances(
        self, request: deploy_pb2.ListInstancesRequest, context: Context
    ) -> deploy_pb2.ListInstancesResponse:
        scope = f"ListInstances/{request.show_released}"
        (after,) = page_token_decode(request.page_token, scope, ("",))
        limit = page_size(request.page_size)
        async with self._database.reader() as session:
            found = await queries.instances_page(session, after, limit + 1, show_released=request.show_released)
            rows, more = split_page(found, limit)
            owners = await queries.deployment_resources(session, {row.deployment_uid for row in rows})
        return deploy_pb2.ListInstancesResponse(
            instances=[
                instance_to_proto(row, owners[row.deployment_uid] if row.deployment_uid else "pool") for row in rows
            ],
            next_page_token=page_token_encode(scope, [rows[-1].uid]) if more else "",
        )


async def _endpoint(session: AsyncSession, project_uid: str, name: str) -> EndpointRow:
    row = await queries.endpoint(session, project_uid, name)
    if row is None:
        raise EndpointNotFound(f"endpoint {name!r} does not exist in this project", field="name")
    return row


async def _deployment(session: AsyncSession, project_uid: str, name: str) -> DeploymentRow:
    ids = DEPLOYMENT.parse(name)
    endpoint = await _endpoint(session, project_uid, ids["endpoint"])
    row = await queries.deployment(session, endpoint.uid, ids["deployment"])
    if row is None:
        raise DeploymentNotFound(
            f"deployment {ids['deployment']!r} is not behind endpoint {ids['endpoint']!r}", field="name"
        )
    return row


async def _with_instances(session: AsyncSession, rows: Sequence[DeploymentRow]) -> list[deploy_pb2.Deployment]:
    """Deployments with the instances that serve them, in two queries however many there are."""
    own: dict[str, list[InstanceRow]] = {}
    for instance in await queries.instances_of(session, [row.uid for row in rows]):
        own.setdefault(instance.deployment_uid, []).append(instance)
    ready = await queries.ready_of_pools(session, {row.pool_uid for row in rows if row.pool_uid})
    return [deployment_to_proto(row, own.get(row.uid, []), ready.get(row.pool_uid, 0)) for row in rows]
