"""A hub as a configured source: previewed, synced, resumed, and what leaves it withdrawn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from modelyard.catalog.v1 import catalog_pb2, sources_pb2
from sqlalchemy import select

from chassis.access import Caller
from chassis.access.caller import CallerKind, set_current_caller
from chassis.database import Database
from chassis.secret_files import SecretFiles
from services.catalog.domain.errors import SourceInvalid
from services.catalog.rpc.sources import SourceServicer
from services.catalog.sources.hub.adapter import hub_adapters
from services.catalog.sources.hub.client import HubBounds
from services.catalog.sources.hub.hub import HubLimits
from services.catalog.sources.hub.hubs import Hubs
from services.catalog.storage.tables import CollectionRow, DatasetRow, ModelRow, PublisherRow, ScoreRow
from services.catalog.usecases.sync_sources import Syncer, SyncLimits
from tests.clock import ManualClock
from tests.infra.hub_models import SMOLLM2, mamba, many, small_encoder, smollm2
from tests.infra.hub_server import Fault, HubServer, hub_server

BOUNDS = HubBounds(timeout_s=1, attempts_max=2, wait_s_first=0.01, wait_s_max=1)
MODELS_MAX = 50
NAME = "sources/community"


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with hub_server(smollm2(), mamba(), *many(18)) as hub:
        yield hub


class Catalog:
    """A catalog with one collection for hubs, and the service that configures sources."""

    def __init__(self, database: Database, hubs: Hubs, server: HubServer) -> None:
        self.database = database
        self.server = server
        server.forget()
        clock = ManualClock()
        adapters = {"hub": hub_adapters(hubs, server.endpoint, models_max=MODELS_MAX)}
        self.syncer = Syncer(database, clock, adapters, SyncLimits())
        self.servicer = SourceServicer(
            database, clock, self.syncer, adapters, insecure=False, preview_models_max=MODELS_MAX
        )
        set_current_caller(Caller("user:ann", CallerKind.USER))

    async def create(self, *, include: tuple[str, ...] = (), **hub: str) -> sources_pb2.ModelSource:
        source = sources_pb2.ModelSource(
            collection="collections/hugging-face", include=include, hub=sources_pb2.HubSource(**hub)
        )
        request = sources_pb2.CreateModelSourceRequest(source_id="community", source=source)
        return await self.servicer.CreateModelSource(request, None)

    async def sync(self) -> sources_pb2.SyncRun:
        """One whole run."""
        run = await self.servicer.SyncModelSource(sources_pb2.SyncModelSourceRequest(name=NAME), None)
        claim = await self.syncer.claim()
        assert claim is not None
        await self.syncer.sync(claim)
        return await self.servicer.GetSyncRun(sources_pb2.GetSyncRunRequest(name=run.name), None)

    async def models(self) -> dict[str, ModelRow]:
        async with self.database.reader() as session:
            return {row.facts["hub_id"]: row for row in (await session.execute(select(ModelRow))).scalars()}


@pytest_asyncio.fixture
async def catalog(database: Database, server: HubServer) -> AsyncIterator[Catalog]:
    async with database.unit_of_work() as uow:
        uow.session.add(CollectionRow(id="hugging-face", display_name="Hub", kind="HUB", description="Community."))
        uow.session.add(
            DatasetRow(id="hellaswag", display_name="HellaSwag", scenario="x", value_max=1, higher_is_better=True)
        )
    hubs = Hubs(SecretFiles(None), BOUNDS, HubLimits(models_max=MODELS_MAX))
    yield Catalog(database, hubs, server)
    await hubs.close()


async def test_what_a_hub_lists_is_taken_once_and_withdrawn_when_it_leaves(catalog: Catalog) -> None:
    odd = catalog.server.add(small_encoder("acme/remote", config={"auto_map": {"AutoModel": "x"}}))
    gone = catalog.server.add(small_encoder("acme/zz-gone"))
    await catalog.create(author="acme")
    first, second = await catalog.sync(), await catalog.sync()
    del catalog.server.repositories[gone.id]
    third = await catalog.sync()
    del catalog.server.repositories[odd.id]
    assert (first.counts.listed, first.counts.added, first.counts.skipped, first.counts.failed) == (20, 20, 1, 0)
    assert (second.counts.unchanged, second.counts.changed) == (20, 0)
    assert (third.counts.unchanged, third.counts.withdrawn) == (19, 1)
    found = await catalog.models()
    assert {model for model, row in found.items() if row.withdrawn} == {"acme/zz-gone"}
    assert found["acme/mamba-130m"].usability == "NEEDS_HARDWARE"
    async with catalog.database.reader() as session:
        (publisher,) = (await session.execute(select(PublisherRow))).scalars()
    assert publisher.website == f"{catalog.server.endpoint}/acme"


async def test_named_models_are_read_without_the_list(catalog: Catalog) -> None:
    """One that is not there fails alone; results on known datasets are stored in their range."""
    await catalog.create(include=(SMOLLM2, "acme/none"))
    run = await catalog.sync()
    assert (run.counts.added, run.counts.failed) == (1, 1)
    assert [(failure.model, failure.field) for failure in run.failures] == [("acme/none", "hub_model_not_found")]
    assert catalog.server.seen("list") == []
    async with catalog.database.reader() as session:
        (score,) = (await session.execute(select(ScoreRow))).scalars()
    assert (score.dataset, score.value, score.shots, score.date) == ("hellaswag", "0.409", "0", "2024-02-01")


async def test_reading_goes_on_behind_the_last_model(catalog: Catalog) -> None:
    """A hub that went away half-way is read on from there by the next process."""
    source = await catalog.create(author="acme", search="encoder")
    adapter = catalog.syncer._adapters["hub"](source, catalog.syncer._clock.now().date())
    first = await anext(adapter.batches(""))
    assert first.cursor == "acme/encoder-015"
    (rest,) = [batch async for batch in adapter.batches(first.cursor)]
    assert [record.hub_id for record in rest.records] == ["acme/encoder-016", "acme/encoder-017"]
    assert rest.cursor == ""


async def test_a_hub_that_is_away_fails_the_run_and_changes_nothing(catalog: Catalog) -> None:
    await catalog.create(include=("acme/encoder-000",))
    await catalog.sync()
    catalog.server.fail_next("info", Fault(status=503), Fault(status=503))
    run = await catalog.sync()
    assert run.state == sources_pb2.SYNC_STATE_FAILED
    assert "answers 503, 2 times in a row" in run.detail
    assert not (await catalog.models())["acme/encoder-000"].withdrawn


async def test_a_preview_says_what_would_come(catalog: Catalog) -> None:
    source = sources_pb2.ModelSource(
        collection="collections/hugging-face", include=["acme/encoder-00*"], hub=sources_pb2.HubSource()
    )
    preview = await catalog.servicer.PreviewModelSource(sources_pb2.PreviewModelSourceRequest(source=source), None)
    assert (preview.counts.added, preview.counts.skipped) == (10, 10)
    assert await catalog.models() == {}


@pytest.mark.parametrize(
    ("source", "field"),
    [
        (sources_pb2.ModelSource(hub=sources_pb2.HubSource(endpoint="http://elsewhere.example")), "hub.endpoint"),
        (sources_pb2.ModelSource(hub=sources_pb2.HubSource(tags=[""])), "hub.tags"),
        (sources_pb2.ModelSource(hub=sources_pb2.HubSource(author="a" * 129)), "hub.author"),
        (sources_pb2.ModelSource(hub=sources_pb2.HubSource(), terms=catalog_pb2.License(id="MIT")), "terms"),
    ],
)
async def test_a_source_with_a_mistake_is_refused(
    catalog: Catalog, source: sources_pb2.ModelSource, field: str
) -> None:
    source.collection = "collections/hugging-face"
    request = sources_pb2.CreateModelSourceRequest(source_id="community", source=source)
    with pytest.raises(SourceInvalid) as refused:
        await catalog.servicer.CreateModelSource(request, None)
    assert refused.value.field == field
