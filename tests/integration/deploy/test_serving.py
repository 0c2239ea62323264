"""Deploy as it runs: gRPC, the local provider with real instances, and the broker behind the outbox."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.deploy.v1 import deploy_pb2, deploy_pb2_grpc, routes_pb2

from chassis.access import AccessPolicy, TokenVerifier
from chassis.access.tokens import issue_token, new_signing_key
from chassis.bus import Bus
from chassis.clock import SystemClock
from chassis.database import Database
from chassis.inbox import Consumer
from chassis.outbox import OutboxRelay
from chassis.rpc import RpcServer, ServedService, problem_from_rpc_error
from services.deploy.compute.local import LocalProvider
from services.deploy.events.consumed import Consumed
from services.deploy.main import DEPLOY_SERVICE, MIGRATIONS, PROJECT_SERVICE
from services.deploy.rpc.deployments import DeployServicer
from services.deploy.rpc.directory import DatabaseRoleDirectory
from services.deploy.rpc.projects import ProjectServicer
from services.deploy.storage.tables import CHASSIS
from services.deploy.usecases.acceptance import Answers
from services.deploy.usecases.launch import Launcher
from services.deploy.usecases.reconcile import ReconcileLimits, Reconciler
from services.deploy.weights.cache import WeightsCache
from tests.conftest import DatabaseFactory
from tests.infra.broker import Broker
from tests.infra.instances import EngineClient, local_provider, local_settings, view_of, wait_until
from tests.infra.weights import WeightsInMemory
from tests.integration.deploy.build import LIMITS, MANAGED, TYPE, VERSION, Neighbourhood, news_of_version

ENDPOINT = "projects/shop/endpoints/talk"
BLUE = f"{ENDPOINT}/deployments/blue"
KEYS = new_signing_key()


class Neighbours:
    """Answers for billing and the catalog, which are other services' to test."""

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock
        self.project_uid = ""

    async def ask(self, project: str, quote: str, model_version: str, instance_type: str) -> Answers:
        answers = Neighbourhood(self.project_uid, MANAGED)
        # The engine that only echoes needs no weights.
        del answers.version.artifacts[:]
        here = Path(__file__)
        answers.version.artifacts.add(name="nothing.txt", uri=here.as_uri(), size_bytes=here.stat().st_size)
        answers.quote.expire_time.FromMilliseconds(self._clock.now_ms() + 60_000)
        return await answers.ask()


class Deploy:
    """One deploy process without its process: loops, server and a client that is an admin."""

    def __init__(self, database: Database, provider: LocalProvider, bus: Bus, weights_dir: Path) -> None:
        self.clock = SystemClock()
        self.database, self.provider, self.bus = database, provider, bus
        self.neighbours = Neighbours(self.clock)
        launcher = Launcher(provider, WeightsCache(weights_dir, WeightsInMemory()))
        self.reconciler = Reconciler(database, self.clock, provider, launcher, ReconcileLimits(), interval_s=0.2)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        neighbours: Any = self.neighbours
        deploying = DeployServicer(
            self.database, self.clock, self.provider, self.reconciler, neighbours, LIMITS, endpoints_max=5
        )
        administering = ProjectServicer(self.database, self.clock, self.reconciler.wanted)
        self._server = RpcServer(
            "127.0.0.1:0",
            [
                ServedService(DEPLOY_SERVICE, deploy_pb2_grpc, deploying),
                ServedService(PROJECT_SERVICE, deploy_pb2_grpc, administering),
            ],
            AccessPolicy(TokenVerifier(KEYS[1]), DatabaseRoleDirectory(self.database)),
        )
        await self._server.start()
        relay = OutboxRelay(self.database, self.bus, self.clock, idle_s=0.2)
        consumed = Consumed(self.database, self.reconciler.wanted)
        lifecycle = Consumer(self.bus, self.database, self.clock, "CATALOG", "deploy-lifecycle", consumed.lifecycle)
        self._tasks = [asyncio.create_task(loop.run()) for loop in (self.reconciler, relay, lifecycle)]
        token = issue_token(KEYS[0], "user:ann", expires_s=600, admin=True)
        self.metadata = (("authorization", f"Bearer {token}"),)
        self._channel = grpc.aio.insecure_channel(self._server.address)
        self.deploying = deploy_pb2_grpc.DeployServiceStub(self._channel)
        self.administering = deploy_pb2_grpc.ProjectServiceStub(self._channel)

    async def call(self, method: Any, request: Any) -> Any:
        return await method(request, metadata=self.metadata, timeout=20)

    async def set_up(self) -> None:
        """A project, an endpoint and a deployment of one instance behind it."""
        project = await self.call(self.administering.CreateProject, deploy_pb2.CreateProjectRequest(project_id="shop"))
        self.neighbours.project_uid = project.uid
        await self.call(
            self.deploying.CreateEndpoint,
            deploy_pb2.CreateEndpointRequest(
                parent="projects/shop", endpoint_id="talk", kind=deploy_pb2.ENDPOINT_KIND_MANAGED
            ),
        )
        await self.call(
            self.deploying.CreateDeployment,
            deploy_pb2.CreateDeploymentRequest(
                parent=ENDPOINT,
                deployment_id="blue",
                model_version=VERSION,
                instance_type=TYPE,
                instance_count=1,
                quote="projects/shop/quotes/q1",
            ),
        )

    async def watch_until(self, state: int, seen: list[int], do: Callable[[], Any] | None = None) -> Any:
        """Read the watch until a state; add each new state to `seen`."""
        call = self.deploying.WatchDeployment(
            deploy_pb2.WatchDeploymentRequest(name=BLUE), metadata=self.metadata, timeout=60
        )
        async for found in call:
            if not seen or seen[-1] != found.state:
                seen.append(found.state)
            if do is not None:
                await do()
                do = None
            if found.state == state:
                call.cancel()
                return found
        raise AssertionError(f"the watch ended in {seen}")

    async def stop(self) -> None:
        """As a crash would, but with its sockets closed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.reconciler.close()
        await self._channel.close()
        await self._server.stop(grace_s=0.1)


@pytest_asyncio.fixture
async def provider(tmp_path: Path) -> AsyncIterator[LocalProvider]:
    async with local_provider(local_settings(tmp_path)) as provider:
        yield provider


@pytest_asyncio.fixture
async def deploy(
    make_database: DatabaseFactory, provider: LocalProvider, nats: Broker, tmp_path: Path
) -> AsyncIterator[Deploy]:
    deploy = Deploy(
        await make_database(CHASSIS, MIGRATIONS), provider, await nats.bus_as("deploy"), tmp_path / "weights"
    )
    await deploy.start()
    yield deploy
    await deploy.stop()


@pytest_asyncio.fixture
async def routes(nats: Broker) -> AsyncIterator[dict[str, routes_pb2.Route | None]]:
    """What inference knows of routes, by endpoint uid; None where one was taken back."""
    known: dict[str, routes_pb2.Route | None] = {}

    def learn(key: str, value: bytes | None, _sequence: int) -> None:
        known[key] = routes_pb2.Route.FromString(value) if value else None

    inference = await nats.bus_as("inference")
    watch = asyncio.create_task(inference.watch_bucket("routes", learn).run())
    yield known
    watch.cancel()
    await asyncio.wait([watch])


async def instance_events(nats: Broker, count: int) -> list[str]:
    """The first facts of instances on the broker, in order, by their last word."""
    told: list[str] = []
    tester = await nats.tester()
    async with asyncio.timeout(20):
        async for _, event in tester.subscribe_stream("DEPLOY", "modelyard.deploy.v1.instance.>", 1):
            told.append(event.action)
            if len(told) == count:
                break
    return told


def targets(routes: dict[str, routes_pb2.Route | None]) -> list[str]:
    """Addresses that inference would call."""
    return [
        target.address
        for route in routes.values()
        if route is not None
        for deployment in route.deployments
        for target in deployment.targets
    ]


async def test_a_deployment_lives_from_creation_to_deletion(
    deploy: Deploy, nats: Broker, routes: dict[str, routes_pb2.Route | None]
) -> None:
    """Its watch shows each state, its route leads to an engine that answers, and its instance is billed and gone."""
    states: list[int] = []
    await deploy.set_up()
    active = await deploy.watch_until(deploy_pb2.DEPLOYMENT_STATE_ACTIVE, states)
    await wait_until(lambda: bool(targets(routes)))
    view = await view_of(deploy.provider, active.instances[0].uid)
    client = EngineClient(view)
    assert targets(routes) == [view.address]
    assert await client.echo("hello") == "hello"
    await client.close()

    async def delete() -> None:
        await deploy.call(deploy.deploying.DeleteDeployment, deploy_pb2.DeleteDeploymentRequest(name=BLUE, force=True))

    await deploy.watch_until(deploy_pb2.DEPLOYMENT_STATE_DELETED, states, delete)
    assert states == [
        deploy_pb2.DEPLOYMENT_STATE_CREATING,
        deploy_pb2.DEPLOYMENT_STATE_ACTIVE,
        deploy_pb2.DEPLOYMENT_STATE_DELETING,
        deploy_pb2.DEPLOYMENT_STATE_DELETED,
    ]
    assert [seen.state.ended for seen in await deploy.provider.list()] == [True]
    assert await instance_events(nats, 2) == ["allocated", "released"]
    assert targets(routes) == []


async def test_another_deploy_process_adopts_what_runs(
    deploy: Deploy, nats: Broker, provider: LocalProvider, tmp_path: Path
) -> None:
    """Nothing is launched again and nothing ends; what the new process is asked for it does."""
    await deploy.set_up()
    active = await deploy.watch_until(deploy_pb2.DEPLOYMENT_STATE_ACTIVE, [])
    await deploy.stop()
    successor = Deploy(deploy.database, provider, deploy.bus, tmp_path / "weights")
    await successor.start()
    try:
        adopted = await successor.watch_until(deploy_pb2.DEPLOYMENT_STATE_ACTIVE, [])
        assert [instance.uid for instance in adopted.instances] == [active.instances[0].uid]
        assert [view.instance_uid for view in await provider.list()] == [active.instances[0].uid]
        await successor.call(
            successor.deploying.DeleteDeployment, deploy_pb2.DeleteDeploymentRequest(name=BLUE, force=True)
        )
        assert await instance_events(nats, 2) == ["allocated", "released"]
    finally:
        await successor.stop()


async def test_an_instance_whose_keeper_is_killed_is_released_and_replaced(
    deploy: Deploy, nats: Broker, provider: LocalProvider
) -> None:
    """Another one takes its place; the first is released once, although nobody saw its end."""
    await deploy.set_up()
    active = await deploy.watch_until(deploy_pb2.DEPLOYMENT_STATE_ACTIVE, [])
    view = await view_of(provider, active.instances[0].uid)
    os.kill(int(view.handle["keeper_pid"]), signal.SIGKILL)
    await wait_until(replaced(deploy, view.instance_uid), timeout_s=60)
    assert (await instance_events(nats, 3))[:3].count("released") == 1


def replaced(deploy: Deploy, uid: str) -> Callable[[], Awaitable[bool]]:
    """Whether the deployment is active on another instance than this one."""

    async def look() -> bool:
        found = await deploy.call(deploy.deploying.GetDeployment, deploy_pb2.GetDeploymentRequest(name=BLUE))
        uids = [instance.uid for instance in found.instances]
        return found.state == deploy_pb2.DEPLOYMENT_STATE_ACTIVE and uids != [uid]

    return look


async def test_a_retirement_reaches_inference_through_the_route(
    deploy: Deploy, nats: Broker, routes: dict[str, routes_pb2.Route | None]
) -> None:
    """From the catalog's event over deploy's consumer and outbox into the bucket."""
    await deploy.set_up()
    retire_time = Timestamp(seconds=2_000_000_000)
    event = news_of_version(2, time=deploy.clock.now(), retire_time=retire_time)
    await (await nats.bus_as("catalog")).publish(event)
    await wait_until(
        lambda: (
            [
                deployment.retire_time
                for route in routes.values()
                if route is not None
                for deployment in route.deployments
            ]
            == [retire_time]
        )
    )


async def test_a_refusal_over_grpc_says_what_and_why(deploy: Deploy) -> None:
    """Its reason is machine-readable."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await deploy.call(deploy.deploying.GetDeployment, deploy_pb2.GetDeploymentRequest(name="nonsense"))
    problem = problem_from_rpc_error(refused.value)
    assert problem.reason == "INVALID_ARGUMENT"
