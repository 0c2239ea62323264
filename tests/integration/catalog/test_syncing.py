"""Sources are synced by one process at a time, resumed where one died, and kept to their schedule."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

from modelyard.catalog.v1 import events_pb2, providers_pb2, sources_pb2
from sqlalchemy import select

from services.catalog.domain.errors import SourceUnavailable
from services.catalog.domain.sources import SyncState
from services.catalog.sources.interface import Batch, Failure
from services.catalog.storage.tables import SyncRunRow
from services.catalog.usecases.sync_sources import RESUMES_MAX, Syncer, SyncLimits
from tests.infra.instances import wait_until
from tests.integration.catalog.syncing import NAME, TODAY, Platform, a_batch, a_target


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
    gate, slow = await platform.held_up(a_batch("a"))
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
