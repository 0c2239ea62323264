"""A catalog with a source that follows a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
from modelyard.catalog.v1 import events_pb2, providers_pb2, sources_pb2
from modelyard.deploy.v1 import events_pb2 as deploy_events
from sqlalchemy import select

from chassis.access import Caller
from chassis.access.caller import CallerKind, set_current_caller
from chassis.database import Database
from chassis.events import published_event
from services.catalog.domain.lifecycle import Notice
from services.catalog.domain.records import License, ModelRecord, Source, VersionRecord
from services.catalog.events.consumed import deployment_changed
from services.catalog.rpc.sources import SourceServicer
from services.catalog.sources.curated import CuratedBounds, curated_adapters
from services.catalog.sources.interface import Batch
from services.catalog.sources.packages import PackageStore
from services.catalog.storage.tables import CollectionRow, ModelRow, VersionRow
from services.catalog.usecases.prepare_models import prepare_models
from services.catalog.usecases.put_models import put_models
from services.catalog.usecases.sync_sources import Syncer, SyncLimits
from tests.clock import START, ManualClock

NAME = "sources/far"
TODAY = START.date()
STORED = "publishers/acme/models/stored"


def a_record(model: str, **changes: Any) -> ModelRecord:
    record = ModelRecord(
        publisher="acme",
        model=model,
        collection="far",
        display_name=model,
        license=License(id="Provider terms"),
        tasks=("CHAT_COMPLETION",),
        deployment_options=("SERVERLESS",),
        usability="RUNS_HERE",
        sources=(Source(location="a list", date=TODAY.isoformat()),),
        versions=(VersionRecord(version="1", position=1),),
    )
    return msgspec.structs.replace(record, **changes)


def a_target(model: str, **changes: Any) -> providers_pb2.ProviderTarget:
    return providers_pb2.ProviderTarget(
        **{"provider": "far", "base_url": "https://a.example", "model": model, **changes}
    )


def a_batch(*models: str, cursor: str = "", today: date = TODAY, **target: Any) -> Batch:
    """Models that a provider answers for."""
    records = [a_record(model, sources=(Source(location="a list", date=today.isoformat()),)) for model in models]
    offers = {f"publishers/acme/models/{model}": a_target(model, **target) for model in models}
    return Batch(records, offers, cursor=cursor)


@dataclass
class ScriptedAdapter:
    """Hands on these batches, waits for these events, raises these errors; a cursor is the number of batches before."""

    steps: list[Batch | Exception | asyncio.Event] = field(default_factory=list)
    cursors: list[str] = field(default_factory=list)

    async def batches(self, cursor: str) -> AsyncGenerator[Batch, None]:
        self.cursors.append(cursor)
        handed_on = 0
        for step in self.steps:
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, Exception):
                raise step
            else:
                handed_on += 1
                if handed_on > int(cursor or 0):
                    yield step


class Platform:
    """The catalog's database with one collection for providers, and a source that follows a script."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = ManualClock()
        self.adapter = ScriptedAdapter()
        self.curated_dir: Path | None = None
        self.syncer = self.restarted()
        self.servicer = SourceServicer(
            database, self.clock, self.syncer, self.adapters, insecure=False, preview_models_max=100
        )

    @property
    def adapters(self) -> Any:
        return {"provider": lambda _spec, _today: self.adapter, "curated": self._folder_adapter}

    def _folder_adapter(self, spec: sources_pb2.ModelSource, today: date) -> Any:
        return curated_adapters(self.curated_dir, PackageStore(None), Notice(), CuratedBounds())(spec, today)

    def restarted(self, **limits: Any) -> Syncer:
        """The syncer of another process over the same database."""
        self.syncer = Syncer(self.database, self.clock, self.adapters, SyncLimits(**limits))
        return self.syncer

    async def create(self, source_id: str = "far", **changes: Any) -> sources_pb2.ModelSource:
        request = sources_pb2.CreateModelSourceRequest(source_id=source_id, source=a_source(**changes))
        return await self.servicer.CreateModelSource(request, None)

    async def get(self, name: str = NAME) -> sources_pb2.ModelSource:
        return await self.servicer.GetModelSource(sources_pb2.GetModelSourceRequest(name=name), None)

    async def sync(self, *steps: Any) -> sources_pb2.SyncRun:
        """Sync once, by hand where nothing is due; how it ended."""
        self.adapter.steps = list(steps) or self.adapter.steps
        run = await self.servicer.SyncModelSource(sources_pb2.SyncModelSourceRequest(name=NAME), None)
        claim = await self.syncer.claim()
        assert claim is not None
        await self.syncer.sync(claim)
        return await self.run_named(run.name)

    async def held_up(self, *batches: Batch) -> tuple[asyncio.Event, asyncio.Task[None]]:
        """A sync that has begun, and hands these on once the event is set."""
        gate = asyncio.Event()
        self.adapter.steps = [gate, *batches]
        claim = await self.syncer.claim()
        assert claim is not None
        syncing = asyncio.create_task(self.syncer.sync(claim))
        await asyncio.sleep(0)
        return gate, syncing

    async def run_named(self, name: str) -> sources_pb2.SyncRun:
        return await self.servicer.GetSyncRun(sources_pb2.GetSyncRunRequest(name=name), None)

    async def preview(self, **changes: Any) -> sources_pb2.PreviewModelSourceResponse:
        source = a_source(**changes) if changes else sources_pb2.ModelSource(name=NAME)
        return await self.servicer.PreviewModelSource(sources_pb2.PreviewModelSourceRequest(source=source), None)

    async def models(self) -> dict[str, ModelRow]:
        async with self.database.reader() as session:
            rows = (await session.execute(select(ModelRow))).scalars()
            return {row.name.rpartition("/")[2]: row for row in rows}

    async def has_a(self) -> bool:
        """Whether the first batch of a script is stored."""
        return "a" in await self.models()

    async def published(self) -> list[str]:
        """Versions that were announced as new."""
        return [
            one.model_version for event in await self.events(events_pb2.VersionsPublished) for one in event.versions
        ]

    async def events(self, message: Any) -> list[Any]:
        table = self.database.tables.outbox
        async with self.database.reader() as session:
            rows = (await session.execute(select(table).order_by(table.c.row_number))).all()
        return [message.FromString(row.data) for row in rows if message.DESCRIPTOR.full_name in row.headers]

    async def deployment(self, model: str, state: str, sequence: int) -> None:
        """What deploy says of a deployment."""
        changed = deploy_events.DeploymentChanged(
            deployment_uid="d",
            deployment="projects/p/endpoints/e/deployments/d",
            state=state,
            model_version=f"publishers/acme/models/{model}/versions/1",
        )
        event = published_event(
            "deploy",
            "deployment",
            "changed",
            changed,
            project_uid="p",
            aggregate_uid="d",
            sequence=sequence,
            time=START,
        )
        async with self.database.unit_of_work() as uow:
            await deployment_changed(uow, event)

    async def store(self, **changes: Any) -> None:
        """A model of the content."""
        facts = {"usability": "NEEDS_PROVIDER_CREDENTIAL", "usability_detail": "no credential", "card": "# Reviewed"}
        async with self.database.unit_of_work() as uow:
            await put_models(
                uow, self.database, START, "content", prepare_models([a_record("stored", **{**facts, **changes})])
            )

    async def version(self, name: str) -> VersionRow:
        async with self.database.reader() as session:
            query = select(VersionRow).where(VersionRow.__table__.c.name == name)  # type: ignore[attr-defined]
            return (await session.execute(query)).scalar_one()


def a_source(**changes: Any) -> sources_pb2.ModelSource:
    provider = sources_pb2.ProviderSource(
        kind=providers_pb2.PROVIDER_KIND_OPENAI, base_url="https://a.example", publisher="publishers/acme"
    )
    return sources_pb2.ModelSource(**{"collection": "collections/far", "provider": provider, **changes})


async def a_platform(database: Database) -> Platform:
    """With a collection for the source and one of reviewed models; `ann` calls."""
    platform = Platform(database)
    async with platform.database.unit_of_work() as uow:
        uow.session.add(CollectionRow(id="far", display_name="Far", kind="PROVIDER", description="Elsewhere."))
        uow.session.add(CollectionRow(id="curated", display_name="Curated", kind="CURATED", description="Here."))
    set_current_caller(Caller("user:ann", CallerKind.USER))
    return platform
