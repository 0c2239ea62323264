"""Models of a hub become models of the catalog: once, at a commit, and whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import select

from chassis.database import Database
from chassis.secret_files import SecretFiles
from services.catalog.domain.downloads import Download
from services.catalog.domain.errors import HubContentChanged, HubCredentialUnusable, ModelOfOtherSource
from services.catalog.sources.hub.client import HubBounds
from services.catalog.sources.hub.hub import Hub, HubLimits, HubSource
from services.catalog.sources.hub.hubs import Hubs
from services.catalog.storage.tables import ModelRow, PublisherRow, VersionRow
from services.catalog.usecases.hub_models import Imported, import_hub_model
from services.catalog.usecases.prepare_models import prepare_models
from services.catalog.usecases.put_models import put_models
from tests.clock import START, ManualClock
from tests.infra.hub_models import (
    LICENSED_TOKEN,
    MINILM,
    SMOLLM2,
    content_of,
    gated,
    minilm,
    small_encoder,
    smollm2,
)
from tests.infra.hub_server import HubServer, hub_server

BOUNDS = HubBounds(timeout_s=1, attempts_max=2, wait_s_first=0.01, wait_s_max=1)
GATED = "acme/gated-encoder"


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with hub_server(minilm(), gated()) as hub:
        yield hub


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    return folder


@pytest_asyncio.fixture
async def hubs(keys: Path) -> AsyncIterator[Hubs]:
    opened = Hubs(SecretFiles(keys), BOUNDS, HubLimits())
    yield opened
    await opened.close()


@pytest.fixture
def hub(server: HubServer, hubs: Hubs) -> Hub:
    return hubs.open(HubSource(endpoint=server.endpoint))


async def imported(database: Database, hub: Hub, model: str, revision: str = "", file: str = "") -> Imported:
    return await import_hub_model(database, ManualClock(), hub, model, revision, file)


async def versions(database: Database) -> list[VersionRow]:
    async with database.reader() as session:
        return list((await session.execute(select(VersionRow).order_by(VersionRow.position))).scalars())


async def the_model(database: Database) -> ModelRow:
    async with database.reader() as session:
        return (await session.execute(select(ModelRow))).scalar_one()


async def test_a_model_is_taken_in_once(database: Database, hub: Hub) -> None:
    """The second time all is known."""
    first, second = await imported(database, hub, MINILM), await imported(database, hub, MINILM)
    assert (first.model, first.outcome) == ("publishers/sentence-transformers/models/all-MiniLM-L6-v2", "ADDED")
    assert second.outcome == "UNCHANGED"
    assert [row.name for row in await versions(database)] == [first.version]
    async with database.reader() as session:
        publisher = (await session.execute(select(PublisherRow))).scalar_one()
    assert publisher.website == f"{hub.source.endpoint}/sentence-transformers"


async def test_a_new_commit_is_a_new_version(database: Database, server: HubServer, hub: Hub) -> None:
    """And an older one that is named stays behind the newest."""
    grown = server.add(small_encoder("acme/grown"))
    files = {name: content_of(grown, name) for name in grown.commits[0].files}
    await imported(database, hub, "acme/grown")
    newest = grown.commit({**files, "vocab.txt": b"x"})
    assert (await imported(database, hub, "acme/grown")).outcome == "CHANGED"
    middle = grown.commits[0].sha
    assert (await imported(database, hub, "acme/grown", middle)).outcome == "UNCHANGED"
    del server.repositories["acme/grown"]
    assert [row.name.rpartition("/")[2] for row in await versions(database)] == [middle[:12], newest[:12]]
    assert (await the_model(database)).latest_version.endswith(newest[:12])


async def test_a_later_choice_serves_known_versions_as_before(
    database: Database, server: HubServer, hub: Hub, keys: Path
) -> None:
    """How a version is served is decided once: deployments of it stand on that."""
    server.add(smollm2())
    await imported(database, hub, SMOLLM2)
    others = Hubs(SecretFiles(keys), BOUNDS, HubLimits(slots=2))
    assert (await imported(database, others.open(hub.source), SMOLLM2)).outcome == "UNCHANGED"
    await others.close()
    (row,) = await versions(database)
    assert row.serving is not None
    assert row.serving["parameters"]["slots"] == "8"


async def test_a_gate_that_opens_completes_the_version(
    database: Database, server: HubServer, hubs: Hubs, keys: Path
) -> None:
    source = HubSource(endpoint=server.endpoint, credential="hub-token")
    (keys / "hub-token").write_text("hf_other\n")
    (keys / "hub-token").chmod(0o600)
    await imported(database, hubs.open(source), GATED)
    closed = await the_model(database)
    (keys / "hub-token").write_text(f"{LICENSED_TOKEN}\n")
    await imported(database, hubs.open(source), GATED)
    opened = await the_model(database)
    assert (closed.usability, "gated" in closed.usability_detail) == ("NEEDS_PROVIDER_CREDENTIAL", True)
    assert "gated" not in opened.usability_detail
    (row,) = await versions(database)
    assert [file["name"] for file in row.artifacts] == ["config.json", "model.safetensors", "tokenizer.json"]
    (keys / "hub-token").write_text("hf_other\n")
    await imported(database, hubs.open(source), GATED)
    assert "gated" in (await the_model(database)).usability_detail
    assert [len(row.artifacts) for row in await versions(database)] == [3]


async def test_a_token_that_cannot_be_read_says_so(database: Database, server: HubServer, hubs: Hubs) -> None:
    source = HubSource(endpoint=server.endpoint, credential="missing")
    with pytest.raises(HubCredentialUnusable, match="missing cannot be read"):
        await imported(database, hubs.open(source), MINILM)


async def test_another_sources_model_stays_its_own(database: Database, hub: Hub) -> None:
    described = await hub.describe(MINILM)
    async with database.unit_of_work() as uow:
        await put_models(uow, database, START, "content", prepare_models([described.record]))
    (row,) = await versions(database)
    async with database.unit_of_work() as uow:
        row.serving = None
        uow.session.add(row)
        model = await uow.session.get(ModelRow, row.model)
        assert model is not None
        model.digest = "other"
        uow.session.add(model)
    with pytest.raises(ModelOfOtherSource, match="came from 'content', which alone changes it"):
        await imported(database, hub, MINILM)


async def test_a_commit_with_other_files_than_before_is_refused(
    database: Database, server: HubServer, hub: Hub
) -> None:
    """A hub that rewrites a commit is not believed."""
    rewritten = server.add(small_encoder("acme/rewritten"))
    await imported(database, hub, "acme/rewritten")
    rewritten.withdraw("tokenizer.json")
    with pytest.raises(HubContentChanged, match="has changed since it was loaded"):
        await imported(database, hub, "acme/rewritten")
    del server.repositories["acme/rewritten"]


async def test_an_artifact_is_read_by_its_address(database: Database, server: HubServer, hub: Hub, hubs: Hubs) -> None:
    await imported(database, hub, MINILM)
    (row,) = await versions(database)
    config = next(file for file in row.artifacts if file["name"] == "config.json")
    file = Download(
        model_version=row.name,
        version_uid=row.uid,
        project_uid="",
        artifact=config["name"],
        sha256=config["sha256"],
        size_bytes=config["size_bytes"],
        uri=config["uri"],
    )
    pieces = [piece async for piece in hubs.read(file, 600, 610)]
    assert b"".join(pieces) == content_of(server.repositories[MINILM], "config.json")[600:610]
