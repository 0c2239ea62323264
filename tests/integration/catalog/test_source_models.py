"""Models of sources: careful with what has deployments, and with those that others describe."""

from __future__ import annotations

import pytest
from modelyard.catalog.v1 import events_pb2, sources_pb2

from services.catalog.domain.errors import SourceNotFound
from services.catalog.usecases.sync_sources import remove_withdrawn
from tests.integration.catalog.syncing import NAME, STORED, Platform, a_batch, a_target

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
