"""Projects, endpoints, deployments and faults for tests of deploy."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from modelyard.billing.v1 import billing_pb2
from modelyard.catalog.v1 import catalog_pb2
from modelyard.catalog.v1 import events_pb2 as catalog_events
from modelyard.deploy.v1 import deploy_pb2, events_pb2, routes_pb2
from modelyard.type.v1 import checks_pb2
from sqlalchemy import select

from chassis.database import Database
from chassis.events import Event, decode_projection, published_event
from services.deploy.compute.interface import InstanceSpec, InstanceState, InstanceView
from services.deploy.events.consumed import Consumed
from services.deploy.main import MIGRATIONS
from services.deploy.storage.tables import CHASSIS, DeploymentRow, InstanceRow, TrialRow
from services.deploy.usecases import deployments, endpoints, projects
from services.deploy.usecases.acceptance import Answers, Limits
from services.deploy.usecases.launch import Launcher
from services.deploy.usecases.reconcile import ReconcileLimits, Reconciler
from services.deploy.weights.cache import CacheLimits, WeightsCache
from tests.clock import START, ManualClock
from tests.conftest import DatabaseFactory
from tests.infra.weights import WeightsInMemory, a_file

ANN = "user:ann"
PROJECT, ENDPOINT, DEPLOYMENT = "shop", "talk", "blue"
VERSION = "publishers/acme/models/talker/versions/1"
TYPE = "instanceTypes/small"
GIB = 1 << 30
LIMITS = Limits(deployments_per_endpoint_max=3, instances_max=8, memory_bytes_max=64 * GIB)
RECONCILE = ReconcileLimits(observe_s=60, pool_idle_s=300, failed_starts_max=3, records_keep_s=3600)
MANAGED, SERVERLESS = endpoints.MANAGED, endpoints.SERVERLESS
WEIGHTS = b"twenty bytes of them"
FILE = a_file(WEIGHTS, "weights")


def version(**changes: Any) -> catalog_pb2.ModelVersion:
    """A version that runs here both ways on the engine that starts fastest."""
    facts = catalog_pb2.ModelVersion(
        name=VERSION,
        uid="version-uid",
        artifacts=[catalog_pb2.Artifact(name=FILE.name, sha256=FILE.sha256, size_bytes=FILE.size_bytes)],
        serving=catalog_pb2.Serving(engine="noop", min_vcpus=1, min_memory_bytes=GIB),
        stage=catalog_pb2.LIFECYCLE_STAGE_GA,
        etag="1",
        deployment_options=[catalog_pb2.DEPLOYMENT_OPTION_MANAGED, catalog_pb2.DEPLOYMENT_OPTION_SERVERLESS],
        usability=catalog_pb2.USABILITY_RUNS_HERE,
    )
    facts.MergeFrom(catalog_pb2.ModelVersion(**changes))
    return facts


def instance_type(**changes: Any) -> catalog_pb2.InstanceType:
    """Two cores and four GiB of this machine."""
    facts = catalog_pb2.InstanceType(name=TYPE, vcpus=2, memory_bytes=4 * GIB, provider="local")
    facts.MergeFrom(catalog_pb2.InstanceType(**changes))
    return facts


class Neighbourhood:
    """What billing and the catalog answer; `asked` counts how often."""

    def __init__(self, project_uid: str, kind: int) -> None:
        managed = kind == MANAGED
        self.quote = billing_pb2.Quote(
            name=f"projects/{PROJECT}/quotes/q1",
            project_uid=project_uid,
            instance_type=TYPE if managed else "",
            model_version="" if managed else VERSION,
            price_version="list@1/price",
        )
        self.quote.expire_time.FromDatetime(START + timedelta(days=1))
        self.version = version()
        self.instance_type = instance_type() if managed else None
        # What the catalog finds.
        self.checks = [checks_pb2.Check(subject="stage", passed=True, message="it is generally available")]
        self.asked = 0

    async def ask(self) -> Answers:
        self.asked += 1
        return self.answers()

    def answers(self) -> Answers:
        return Answers(self.quote, self.version, self.instance_type, self.checks)

    def refuse(self, reason: str, message: str = "the catalog refuses it") -> None:
        """Let the catalog find something that stands in the way."""
        self.checks.append(checks_pb2.Check(subject="something", reason=reason, message=message))


@dataclass
class FaultyProvider:
    """Instances in memory, for faults that no real provider makes when a test needs them: an instance that vanishes
    with its records, a list that fails, a launch that hangs, a crash between two steps."""

    clock: ManualClock
    views: dict[str, InstanceView] = field(default_factory=dict)
    specs: list[InstanceSpec] = field(default_factory=list)
    terminated: list[str] = field(default_factory=list)
    # Raised by the next calls of a method, by its name.
    errors: dict[str, Exception] = field(default_factory=dict)
    # Launches wait for it.
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def launch(self, spec: InstanceSpec) -> None:
        self.specs.append(spec)
        await self.gate.wait()
        self._raise("launch")
        self.show(spec.instance_uid)

    async def terminate(self, instance_uid: str) -> int | None:
        self._raise("terminate")
        self.terminated.append(instance_uid)
        if instance_uid not in self.views:
            return None
        self.change(instance_uid, state=InstanceState.EXITED, exited_at_ms=self.clock.now_ms())
        return self.clock.now_ms()

    async def list(self) -> builtins.list[InstanceView]:
        self._raise("list")
        return builtins.list(self.views.values())

    async def watch(self) -> AsyncIterator[InstanceView]:
        for view in self.views.values():
            yield view

    async def logs(self, instance_uid: str, lines: int) -> builtins.list[str]:
        return [f"a line of {instance_uid}"] if instance_uid in self.views else []

    async def forget(self, instance_uid: str) -> None:
        del self.views[instance_uid]

    def show(self, uid: str, state: InstanceState = InstanceState.STARTING) -> None:
        """Make an instance appear, unless it is there."""
        self.views.setdefault(uid, InstanceView(uid, state, "", self.clock.now_ms(), None, "", "enforced: all"))

    def change(self, uid: str, **changes: Any) -> None:
        self.views[uid] = replace(self.views[uid], **changes)

    def answer(self, uid: str) -> None:
        """The instance's model answers its canary."""
        self.change(uid, state=InstanceState.READY, address=f"127.0.0.1:{1000 + len(self.launched)}")

    def answer_all(self) -> None:
        for uid, view in self.views.items():
            if view.state is InstanceState.STARTING:
                self.answer(uid)

    def fail(self, uid: str, why: str = "model load ended") -> None:
        """The instance ends by itself."""
        self.change(uid, state=InstanceState.FAILED, exited_at_ms=self.clock.now_ms(), detail=why)

    @property
    def launched(self) -> builtins.list[str]:
        return [spec.instance_uid for spec in self.specs]

    @property
    def alive(self) -> builtins.list[str]:
        return [uid for uid, view in self.views.items() if not view.state.ended]

    def _raise(self, method: str) -> None:
        if method in self.errors:
            raise self.errors[method]


class Platform:
    """Deploy's database with one project, and what tests do to it."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.clock = ManualClock()
        self.provider = FaultyProvider(self.clock)
        self.weights = WeightsInMemory({FILE.sha256: WEIGHTS})
        self._weights_dir = folder
        self.reconciler = self.restarted()
        self.project_uid = ""

    def restarted(self, **limits: Any) -> Reconciler:
        """The reconciler of another deploy process over the same rows and instances."""
        self.cache = WeightsCache(
            self._weights_dir, self.weights, CacheLimits(bytes_max=30, attempts_max=2, backoff_s=0)
        )
        launcher = Launcher(self.provider, self.cache)
        self.reconciler = Reconciler(self.database, self.clock, self.provider, launcher, replace(RECONCILE, **limits))
        return self.reconciler

    async def add_project(self, name: str) -> str:
        request = deploy_pb2.CreateProjectRequest(project_id=name)
        return (await projects.create_project(self.database, self.clock, ANN, request)).uid

    async def add_endpoint(
        self, name: str = ENDPOINT, kind: int = MANAGED, *, project: str = PROJECT, project_uid: str = ""
    ) -> deploy_pb2.Endpoint:
        return await endpoints.create_endpoint(
            self.database,
            self.clock,
            principal=ANN,
            project_uid=project_uid or self.project_uid,
            project=project,
            request=deploy_pb2.CreateEndpointRequest(
                parent=f"projects/{project}", endpoint_id=name, kind=deploy_pb2.EndpointKind.ValueType(kind)
            ),
            endpoints_max=5,
        )

    async def deploy(
        self,
        name: str = DEPLOYMENT,
        *,
        endpoint: str = ENDPOINT,
        kind: int = MANAGED,
        count: int = 1,
        project: str = PROJECT,
        project_uid: str = "",
        neighbours: Neighbourhood | None = None,
        request_id: str = "",
        limits: Limits = LIMITS,
    ) -> deploy_pb2.Deployment:
        project_uid = project_uid or self.project_uid
        neighbours = neighbours or Neighbourhood(project_uid, kind)
        managed = kind == MANAGED
        return await deployments.create_deployment(
            self.database,
            self.clock,
            principal=ANN,
            project_uid=project_uid,
            project=project,
            endpoint=endpoint,
            request=deploy_pb2.CreateDeploymentRequest(
                parent=f"projects/{project}/endpoints/{endpoint}",
                deployment_id=name,
                model_version=VERSION,
                instance_type=TYPE if managed else "",
                instance_count=count if managed else 0,
                quote=neighbours.quote.name,
                request_id=request_id,
            ),
            ask=neighbours.ask,
            limits=limits,
        )

    async def scale(self, count: int, name: str = DEPLOYMENT, *, etag: str = "") -> deploy_pb2.Deployment:
        return await deployments.scale_deployment(
            self.database, self.clock, self.project_uid, ENDPOINT, name, count, etag, LIMITS
        )

    async def look(self, *, settle: bool = True) -> None:
        """One pass; then, unless told otherwise, what it started comes to an end."""
        await self.reconciler.reconcile_once()
        while settle and (actions := self.actions()):
            await asyncio.wait(actions)

    def actions(self) -> list[asyncio.Task[Any]]:
        """Launches and terminations under way."""
        return [task for task in asyncio.all_tasks() if task.get_name().startswith("instance ")]

    async def until_active(self) -> None:
        """Look until every instance that was launched answers."""
        await self.look()
        self.provider.answer_all()
        await self.look()

    async def rows(self, row_class: Any) -> list[Any]:
        async with self.database.reader() as session:
            return list((await session.execute(select(row_class).order_by(row_class.uid))).scalars())

    async def rows_of_trials(self) -> list[TrialRow]:
        async with self.database.reader() as session:
            return list((await session.execute(select(TrialRow))).scalars())

    async def instances(self) -> list[InstanceRow]:
        return await self.rows(InstanceRow)

    async def deployment(self, uid: str = "") -> DeploymentRow:
        return next(row for row in await self.rows(DeploymentRow) if not uid or row.uid == uid)

    async def events(self, message: type[Message]) -> list[Any]:
        """The events of one type that were emitted, oldest first."""
        rows = await self._outbox("event")
        return [message.FromString(row.data) for row in rows if message.DESCRIPTOR.full_name in row.headers]

    async def releases(self) -> list[events_pb2.InstanceReleased]:
        return await self.events(events_pb2.InstanceReleased)

    async def projections(self, bucket: str) -> list[tuple[str, int, bytes]]:
        """(key, sequence, value) of what was projected, oldest first."""
        rows = await self._outbox("projection")
        return [(row.headers, *decode_projection(row.data)) for row in rows if row.subject == bucket]

    async def routes(self) -> list[routes_pb2.Route | None]:
        """What was projected as routes, oldest first; None takes one back."""
        return [routes_pb2.Route.FromString(value) if value else None for *_, value in await self.projections("routes")]

    async def _outbox(self, kind: str) -> list[Any]:
        table = self.database.tables.outbox
        async with self.database.reader() as session:
            query = select(table).where(table.c.kind == kind).order_by(table.c.row_number)
            return list((await session.execute(query)).all())


async def platform_with_project(make_database: DatabaseFactory, folder: Path) -> Platform:
    platform = Platform(await make_database(CHASSIS, MIGRATIONS), folder)
    platform.project_uid = await platform.add_project(PROJECT)
    return platform


def news_of_version(sequence: int, *, time: datetime = START, **facts: Any) -> Event:
    """What the catalog publishes when something about the version has changed."""
    return published_event(
        "catalog",
        "version",
        "lifecycle-changed",
        catalog_events.VersionLifecycleChanged(model_version=VERSION, **facts),
        project_uid=None,
        aggregate_uid="version-uid",
        sequence=sequence,
        time=time,
    )


async def hear(platform: Platform, event: Event) -> None:
    """Deploy's consumer takes an event of the catalog."""
    async with platform.database.unit_of_work() as uow:
        await Consumed(platform.database, platform.reconciler.wanted).lifecycle(uow, event)
