"""Sources as configuration: previewed before they are applied, named once, changed and listed."""

from __future__ import annotations

import pytest
from modelyard.catalog.v1 import sources_pb2

from chassis.errors import EtagMismatch
from services.catalog.domain.errors import SourceExists, SourceInvalid
from services.catalog.domain.sources import SyncState
from services.catalog.sources.interface import Batch, Failure
from tests.integration.catalog.syncing import NAME, Platform, a_batch, a_source

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
    gate, reading = await platform.held_up(a_batch("a"))
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
