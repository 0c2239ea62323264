"""Configured sources: synced by one process at a time, resumed, and careful with what has deployments."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from modelyard.catalog.v1 import events_pb2, providers_pb2, sources_pb2
from modelyard.deploy.v1 import events_pb2 as deploy_events
from sqlalchemy import select

from chassis.access import Caller
from chassis.access.caller import CallerKind, set_current_caller
from chassis.database import Database
from chassis.errors import EtagMismatch
from chassis.events import published_event
from services.catalog.domain.errors import SourceExists, SourceInvalid, SourceNotFound, SourceUnavailable
from services.catalog.domain.records import License, ModelRecord, Source, VersionRecord
from services.catalog.domain.sources import SyncState
from services.catalog.events.consumed import deployment_changed
from services.catalog.rpc.sources import SourceServicer
from services.catalog.sources.interface import Batch, Failure
from services.catalog.storage.tables import CHASSIS, CatalogTable, CollectionRow, ModelRow, SyncRunRow, VersionRow
from services.catalog.usecases.prepare_models import prepare_models
from services.catalog.usecases.put_models import put_models
from services.catalog.usecases.sync_sources import RESUMES_MAX, Syncer, SyncLimits, remove_withdrawn
from tests.clock import START, ManualClock
from tests.conftest import DatabaseFactory
from tests.infra.instances import wait_until

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
        self.syncer = self.restarted()
        self.servicer = SourceServicer(
            database, self.clock, self.syncer, self.adapters, insecure=False, preview_models_max=100
        )

    @property
    def adapters(self) -> Any:
        return {"provider": lambda _spec, _today: self.adapter}

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


@pytest_asyncio.fixture
async def platform(make_database: DatabaseFactory) -> Platform:
    platform = Platform(await make_database(CHASSIS, CatalogTable.metadata))
    async with platform.database.unit_of_work() as uow:
        uow.session.add(CollectionRow(id="far", display_name="Far", kind="PROVIDER", description="Elsewhere."))
        uow.session.add(CollectionRow(id="curated", display_name="Curated", kind="CURATED", description="Here."))
    set_current_caller(Caller("user:ann", CallerKind.USER))
    return platform


# Syncing


async def test_a_sync_brings_models_with_where_their_provider_answers(platform: Platform) -> None:
    await platform.create()
    run = await platform.sync(a_batch("a", cursor="1"), a_batch("b"))
    assert (run.state, run.counts.listed, run.counts.added, run.trigger) == (SyncState.SUCCEEDED, 2, 2, "user:ann")
    models = await platform.models()
    assert {name: row.provider_source for name, row in models.items()} == {"a": "far", "b": "far"}
    assert providers_pb2.ProviderTarget.FromString(models["a"].provider_target) == a_target("a")
    assert (await platform.get()).model_count == 2


async def test_the_same_again_changes_nothing_and_says_nothing(platform: Platform) -> None:
    """On another day too: a fact keeps the day on which it was first read."""
    await platform.create()
    await platform.sync(a_batch("a", "b"))
    before, announced = await platform.models(), len(await platform.events(events_pb2.VersionLifecycleChanged))
    run = await platform.sync(a_batch("a", "b", today=TODAY + timedelta(days=1)))
    assert (run.counts.unchanged, run.counts.added, run.counts.changed) == (2, 0, 0)
    after = await platform.models()
    assert {name: row.change_sequence for name, row in after.items()} == {
        name: row.change_sequence for name, row in before.items()
    }
    assert len(await platform.published()) == 2
    assert len(await platform.events(events_pb2.VersionLifecycleChanged)) == announced


async def test_a_model_that_fails_does_not_hold_up_the_others(platform: Platform) -> None:
    await platform.create()
    batch = a_batch("a")
    run = await platform.sync(Batch(batch.records, batch.offers, [Failure("b", "id", "no name")], skipped=3))
    assert (run.state, run.counts.failed, run.counts.skipped) == (SyncState.SUCCEEDED, 1, 3)
    assert [(one.model, one.field, one.reason) for one in run.failures] == [("b", "id", "no name")]


async def test_a_source_that_cannot_be_read_leaves_everything(platform: Platform) -> None:
    await platform.create(interval_s=60)
    await platform.sync(a_batch("a", "b"))
    run = await platform.sync(a_batch("a", cursor="1"), SourceUnavailable("the list is away; wait"))
    assert (run.state, run.detail) == (SyncState.FAILED, "the list is away; wait")
    assert not any(row.withdrawn for row in (await platform.models()).values())
    assert (await platform.get()).HasField("next_sync_time")


async def test_a_source_that_lists_nothing_is_rather_wrong_than_empty(platform: Platform) -> None:
    await platform.create()
    await platform.sync(a_batch("a"))
    run = await platform.sync(Batch([]))
    assert run.state == SyncState.FAILED
    assert "1 are known of it" in run.detail
    assert not (await platform.models())["a"].withdrawn


async def test_two_replicas_at_once_import_once(platform: Platform) -> None:
    """Also when both are told of everything that is due, again and again."""
    await platform.create()
    platform.adapter.steps = [a_batch("a", cursor="1"), a_batch("b")]
    replicas = [Syncer(platform.database, platform.clock, platform.adapters, SyncLimits(check_s=0.01)) for _ in "ab"]
    running = [asyncio.create_task(replica.run()) for replica in replicas]

    async def ended() -> bool:
        return SyncState((await platform.get()).last_run.state).ended

    await wait_until(ended)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert len(platform.adapter.cursors) == 1
    assert len(await platform.published()) == 2
    assert (await platform.get()).last_run.counts.added == 2


async def test_a_run_whose_process_died_goes_on_where_it_was(platform: Platform) -> None:
    """By another process, once the lease has ended; what was stored by then is not counted twice."""
    await platform.create()
    platform.adapter.steps = [a_batch("a", cursor="1"), asyncio.Event(), a_batch("b")]
    claim = await platform.syncer.claim()
    assert claim is not None
    dead = asyncio.create_task(platform.syncer.sync(claim))
    await wait_until(platform.has_a)
    platform.adapter.steps = [a_batch("a", cursor="1"), a_batch("b")]
    successor = platform.restarted()
    assert await successor.claim() is None
    platform.clock.advance(61)
    taken = await successor.claim()
    assert taken is not None
    await successor.sync(taken)
    run = (await platform.get()).last_run
    assert (run.state, run.resume_count, run.counts.added, run.counts.listed) == (SyncState.SUCCEEDED, 1, 2, 2)
    assert platform.adapter.cursors == ["", "1"]
    dead.cancel()
    await asyncio.gather(dead, return_exceptions=True)
    assert len(await platform.published()) == 2


async def test_a_process_that_lost_its_lease_stores_nothing_more(platform: Platform) -> None:
    """It was only slow, and finds out before it writes."""
    await platform.create()
    gate = asyncio.Event()
    platform.adapter.steps = [gate, a_batch("a")]
    claim = await platform.syncer.claim()
    assert claim is not None
    slow = asyncio.create_task(platform.syncer.sync(claim))
    await asyncio.sleep(0)
    platform.clock.advance(61)
    assert await platform.restarted().claim() is not None
    gate.set()
    await slow
    assert await platform.models() == {}
    assert (await platform.get()).last_run.state == SyncState.RUNNING


async def test_a_run_that_kills_its_processes_is_given_up(platform: Platform) -> None:
    await platform.create()
    for _ in range(RESUMES_MAX + 1):
        assert await platform.restarted().claim() is not None
        platform.clock.advance(61)
    assert await platform.restarted().claim() is None
    run = (await platform.get()).last_run
    assert (run.state, "died" in run.detail) == (SyncState.FAILED, True)


async def test_a_schedule_is_kept(platform: Platform) -> None:
    """From the end of one sync to the next."""
    await platform.create(interval_s=3600)
    await platform.sync(a_batch("a"))
    assert await platform.syncer.claim() is None
    platform.clock.advance(3600)
    claim = await platform.syncer.claim()
    assert claim is not None
    await platform.syncer.sync(claim)
    assert (await platform.get()).last_run.trigger == "schedule"


async def test_a_paused_source_is_synced_only_by_hand(platform: Platform) -> None:
    await platform.create(interval_s=60, paused=True)
    platform.clock.advance(3600)
    assert await platform.syncer.claim() is None
    assert (await platform.sync(a_batch("a"))).state == SyncState.SUCCEEDED


async def test_asking_twice_is_one_run(platform: Platform) -> None:
    await platform.create()
    request = sources_pb2.SyncModelSourceRequest(name=NAME)
    asked = [await platform.servicer.SyncModelSource(request, None) for _ in range(2)]
    assert asked[0].name == asked[1].name == (await platform.get()).last_run.name


async def test_a_stopped_process_leaves_its_run_to_the_next_at_once(platform: Platform) -> None:
    await platform.create()
    platform.adapter.steps = [a_batch("a", cursor="1"), asyncio.Event()]
    running = asyncio.create_task(platform.syncer.run())
    await wait_until(platform.has_a)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert await platform.restarted().claim() is not None


async def test_old_runs_are_forgotten(platform: Platform) -> None:
    await platform.create()
    platform.restarted(runs_kept=2)
    for _ in range(4):
        await platform.sync(a_batch("a"))
    async with platform.database.reader() as session:
        numbers = sorted(row.number for row in (await session.execute(select(SyncRunRow))).scalars())
    assert numbers == [2, 3, 4]


# What leaves a source


async def test_what_leaves_its_source_takes_no_new_deployments_and_comes_back(platform: Platform) -> None:
    await platform.create()
    await platform.sync(a_batch("a", "b"))
    uid = (await platform.models())["b"].uid
    assert (await platform.sync(a_batch("a"))).counts.withdrawn == 1
    gone = (await platform.models())["b"]
    assert (gone.withdrawn, gone.provider_source) == (True, "")
    assert (await platform.get()).model_count == 1
    assert (await platform.sync(a_batch("a", "b"))).counts.changed == 1
    back = (await platform.models())["b"]
    assert (back.withdrawn, back.provider_source, back.usability, back.uid) == (False, "far", "RUNS_HERE", uid)


async def test_a_model_with_deployments_is_never_removed(platform: Platform) -> None:
    """Until the last of them is deleted; an older word of deploy's changes nothing."""
    await platform.create()
    await platform.sync(a_batch("a", "b"))
    await platform.deployment("b", "ACTIVE", 2)
    await platform.sync(a_batch("a"))
    platform.clock.advance(90_000)
    assert await remove_withdrawn(platform.database, platform.clock, 86_400) == 0
    await platform.deployment("b", "DELETED", 4)
    await platform.deployment("b", "DELETING", 3)
    assert await remove_withdrawn(platform.database, platform.clock, 86_400) == 1
    assert (await platform.models()).keys() == {"a"}


async def test_a_model_that_just_left_is_kept_for_deployments_that_are_under_way(platform: Platform) -> None:
    await platform.create()
    await platform.sync(a_batch("a", "b"))
    await platform.sync(a_batch("a"))
    assert await remove_withdrawn(platform.database, platform.clock, 86_400) == 0
    await platform.deployment("b", "CREATING", 1)
    platform.clock.advance(90_000)
    assert await remove_withdrawn(platform.database, platform.clock, 86_400) == 0


async def test_a_deleted_source_leaves_its_models_withdrawn_and_another_may_have_them(platform: Platform) -> None:
    await platform.create()
    await platform.sync(a_batch("a"))
    await platform.servicer.DeleteModelSource(sources_pb2.DeleteModelSourceRequest(name=NAME), None)
    assert (await platform.models())["a"].withdrawn
    with pytest.raises(SourceNotFound):
        await platform.get()
    await platform.create("near")
    claim = await platform.syncer.claim()
    assert claim is not None
    await platform.syncer.sync(claim)
    row = (await platform.models())["a"]
    assert (row.source, row.withdrawn, row.provider_source) == ("near", False, "near")


# Models that are described elsewhere


async def test_a_reviewed_model_becomes_usable_through_a_provider_and_keeps_its_card(platform: Platform) -> None:
    """And needs a credential again when the provider does not list it any more."""
    await platform.store()
    await platform.create()
    run = await platform.sync(a_batch("stored", "a"))
    assert (run.counts.changed, run.counts.added) == (1, 1)
    row = (await platform.models())["stored"]
    assert (row.source, row.usability, row.provider_source) == ("content", "RUNS_HERE", "far")
    (told,) = [
        event
        for event in await platform.events(events_pb2.VersionLifecycleChanged)
        if event.model_version == f"{STORED}/versions/1"
    ]
    assert told.provider == a_target("stored")
    await platform.sync(a_batch("a"))
    row = (await platform.models())["stored"]
    assert (row.withdrawn, row.usability, row.provider_source) == (False, "NEEDS_PROVIDER_CREDENTIAL", "")


async def test_content_that_is_loaded_anew_leaves_the_credential(platform: Platform) -> None:
    await platform.store()
    await platform.create()
    await platform.sync(a_batch("stored"))
    await platform.store(summary="Reviewed again.")
    row = (await platform.models())["stored"]
    assert (row.facts["summary"], row.usability, row.provider_source) == ("Reviewed again.", "RUNS_HERE", "far")


async def test_a_model_that_runs_here_by_itself_needs_no_provider(platform: Platform) -> None:
    await platform.store(usability="RUNS_HERE")
    await platform.create()
    run = await platform.sync(a_batch("stored", "a"))
    assert [(one.model, run.counts.failed) for one in run.failures] == [(STORED, 1)]
    assert (await platform.models())["stored"].provider_source == ""


async def test_two_sources_do_not_offer_one_model(platform: Platform) -> None:
    await platform.store()
    await platform.create()
    await platform.sync(a_batch("stored"))
    await platform.create("near")
    claim = await platform.syncer.claim()
    assert claim is not None
    await platform.syncer.sync(claim)
    run = await platform.run_named((await platform.get("sources/near")).last_run.name)
    assert "'far' offers" in run.failures[0].reason
    assert (await platform.models())["stored"].provider_source == "far"


async def test_where_a_provider_answers_may_change_and_is_announced(platform: Platform) -> None:
    await platform.create()
    await platform.sync(a_batch("a"))
    run = await platform.sync(a_batch("a", base_url="https://moved.example"))
    assert run.counts.changed == 1
    *_, told = await platform.events(events_pb2.VersionLifecycleChanged)
    assert told.provider.base_url == "https://moved.example"
    assert (await platform.version("publishers/acme/models/a/versions/1")).event_sequence == 3


# Previews


async def test_a_preview_says_what_would_change_and_changes_nothing(platform: Platform) -> None:
    await platform.store()
    await platform.create()
    await platform.sync(a_batch("a", "b"))
    before, announced = await platform.models(), await platform.published()
    batch = a_batch("a", "c", "stored")
    platform.adapter.steps = [Batch(batch.records, batch.offers, [Failure("d", "id", "no name")], skipped=2)]
    found = await platform.preview()
    assert {one.model.rpartition("/")[2]: one.change for one in found.changes} == {
        "c": "added",
        "stored": "changed",
        "b": "withdrawn",
    }
    counts = found.counts
    assert (counts.listed, counts.unchanged, counts.skipped, counts.failed) == (3, 1, 2, 1)
    after = await platform.models()
    assert {name: row.change_sequence for name, row in after.items()} == {
        name: row.change_sequence for name, row in before.items()
    }
    assert await platform.published() == announced


async def test_a_source_is_previewed_before_it_is_created(platform: Platform) -> None:
    platform.adapter.steps = [a_batch("a")]
    found = await platform.preview(interval_s=60)
    assert [(one.model, one.change) for one in found.changes] == [("publishers/acme/models/a", "added")]
    assert await platform.models() == {}
    with pytest.raises(SourceInvalid):
        await platform.preview(interval_s=1)


async def test_a_preview_of_a_large_source_says_where_it_ended(platform: Platform) -> None:
    platform.servicer._preview_models_max = 1
    platform.adapter.steps = [a_batch("a", cursor="1"), a_batch("b")]
    found = await platform.preview(interval_s=60)
    assert (found.truncated, found.counts.added) == (True, 1)


# Configuration


async def test_a_name_is_taken_once_and_some_never(platform: Platform) -> None:
    await platform.create()
    with pytest.raises(SourceExists):
        await platform.create()
    with pytest.raises(SourceInvalid, match="taken by the catalog itself"):
        await platform.create("content")


@pytest.mark.parametrize(
    ("collection", "message"), [("collections/none", "does not exist"), ("collections/curated", "of kind curated")]
)
async def test_a_source_fills_a_collection_of_its_kind(platform: Platform, collection: str, message: str) -> None:
    with pytest.raises(SourceInvalid, match=message):
        await platform.create(collection=collection)


async def test_a_changed_source_ends_its_run_and_begins_another(platform: Platform) -> None:
    created = await platform.create()
    gate = asyncio.Event()
    platform.adapter.steps = [gate, a_batch("a")]
    claim = await platform.syncer.claim()
    assert claim is not None
    reading = asyncio.create_task(platform.syncer.sync(claim))
    await asyncio.sleep(0)
    changed = a_source(exclude=["a"], name=NAME, etag=created.etag)
    update = sources_pb2.UpdateModelSourceRequest(source=changed)
    answer = await platform.servicer.UpdateModelSource(update, None)
    assert answer.last_run.name != created.last_run.name
    gate.set()
    await reading
    first = await platform.run_named(created.last_run.name)
    assert (first.state, first.detail) == (SyncState.INTERRUPTED, "the source was changed")
    assert await platform.models() == {}
    with pytest.raises(EtagMismatch):
        await platform.servicer.UpdateModelSource(update, None)


async def test_the_same_configuration_again_starts_nothing(platform: Platform) -> None:
    created = await platform.create()
    await platform.sync(a_batch("a"))
    source = a_source(name=NAME, etag=created.etag)
    answer = await platform.servicer.UpdateModelSource(sources_pb2.UpdateModelSourceRequest(source=source), None)
    assert (answer.etag, answer.last_run.name) == (created.etag, created.last_run.name)


async def test_runs_are_listed_newest_first(platform: Platform) -> None:
    await platform.create()
    names = [(await platform.sync(a_batch("a"))).name for _ in range(3)]
    request = sources_pb2.ListSyncRunsRequest(parent=NAME, page_size=2)
    page = await platform.servicer.ListSyncRuns(request, None)
    request.page_token = page.next_page_token
    rest = await platform.servicer.ListSyncRuns(request, None)
    assert [run.name for run in (*page.runs, *rest.runs)] == names[::-1]
    assert rest.next_page_token == ""
