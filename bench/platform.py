"""The whole platform, with one endpoint of the benchmark's own: every service is the real one, as `make up` runs it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from modelyard.catalog.v1 import catalog_pb2
from modelyard.deploy.v1 import deploy_pb2, routes_pb2
from modelyard.inference.v1 import inference_pb2, operations_pb2
from modelyard_client import Addresses, Modelyard, ModelyardError

from bench.engine import NOOP, TOKENS, Engine, running_engine
from chassis.bus import Bus
from chassis.events import encode_projection
from chassis.ids import new_uid
from embedded.platform import Platform, running_platform

ENDPOINT = "bench"
PROJECT = "bench"
ARRIVES_S_MAX = 20.0
_TASKS = (catalog_pb2.TASK_CHAT_COMPLETION,)


@dataclass(frozen=True)
class BenchedPlatform:
    """A platform whose endpoint `bench` has a deployment for each model that does nothing."""

    platform: Platform
    admin: Modelyard
    addresses: Addresses
    engine: Engine
    key: str
    project_uid: str

    @property
    def project(self) -> str:
        """Resource name."""
        return f"projects/{PROJECT}"

    @property
    def headers(self) -> dict[str, str]:
        """What a caller of inference sends."""
        return {"authorization": f"Bearer {self.key}"}

    def process(self, part: str) -> psutil.Process:
        """One of its processes."""
        running = self.platform.children[part].process
        assert running is not None, f"{part} is not running"  # noqa: S101 - a bug, not an input
        return psutil.Process(running.pid)

    async def all_committed(self) -> None:
        """Wait until billing has committed every call so far and inference has heard of it."""
        while True:
            state = await self.admin.operations.GetDataPathState(operations_pb2.GetDataPathStateRequest())
            if not state.running_count and state.committed_seq == state.last_seq:
                return
            await asyncio.sleep(0.1)


def model_of(model: str) -> str:
    """What a caller of the platform names to reach a model of the engine."""
    return f"{ENDPOINT}/{model}"


@asynccontextmanager
async def benched_platform(
    folder: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[BenchedPlatform]:
    """A platform for the length of the block.

    Routes of the two models are put where deploy puts its own: nothing is in the catalog that does no work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "engine").mkdir()
    with (folder / "platform.log").open("a") as log:

        def keep(part: str, line: str) -> None:
            log.write(f"{part}: {line}\n")

        async with (
            running_platform(folder / "home", keep, {**os.environ, **(environment or {})}) as platform,
            Modelyard.from_file(platform.home.addresses) as admin,
            running_engine(folder / "engine", platform.home.cluster_secret.read_bytes()) as engine,
        ):
            project = await admin.projects.CreateProject(deploy_pb2.CreateProjectRequest(project_id=PROJECT))
            made = await admin.projects.CreateApiKey(deploy_pb2.CreateApiKeyRequest(parent=project.name))
            await _put_route(platform, engine, project.uid)
            addresses = Addresses.read(platform.home.addresses)
            await _until_callable(addresses, made.secret)
            yield BenchedPlatform(platform, admin, addresses, engine, made.secret, project.uid)


async def _put_route(platform: Platform, engine: Engine, project_uid: str) -> None:
    uid = new_uid()
    route = routes_pb2.Route(
        endpoint_uid=uid,
        endpoint=ENDPOINT,
        project_uid=project_uid,
        project=PROJECT,
        deployments=[
            routes_pb2.RouteDeployment(
                uid=new_uid(),
                deployment=model,
                weight=50,
                model_version=f"publishers/bench/models/{model}/versions/1",
                tasks=_TASKS,
                price_version="bench",
                targets=[
                    routes_pb2.RouteTarget(instance_uid=engine.instance_uid, address=engine.address, model_name=model)
                ],
            )
            for model in (NOOP, TOKENS)
        ],
    )
    route.create_time.GetCurrentTime()
    addresses = Addresses.read(platform.home.addresses)
    deploy = await Bus.connect(addresses.nats, platform.home.nats_credential("deploy"), "deploy")
    try:
        await deploy.put_projection("routes", uid, encode_projection(1, route.SerializeToString()))
    finally:
        await deploy.close()


async def _until_callable(addresses: Addresses, key: str) -> None:
    async with Modelyard(addresses, "", key=key) as client, asyncio.timeout(ARRIVES_S_MAX):
        while True:
            try:
                listed = await client.inference.ListCallable(inference_pb2.ListCallableRequest())
            except ModelyardError:
                listed = inference_pb2.ListCallableResponse()
            if listed.callables:
                return
            await asyncio.sleep(0.05)
