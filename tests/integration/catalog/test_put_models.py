"""Models of any source are stored once, changed by their source alone, and announced once."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import select

from chassis.database import Database
from services.catalog.domain.records import ArtifactRecord, License, ModelRecord, Source, VersionRecord
from services.catalog.main import MIGRATIONS
from services.catalog.storage.tables import CHASSIS, ModelRow
from services.catalog.usecases.prepare_models import prepare_models
from services.catalog.usecases.put_models import PutResult, put_models
from tests.clock import START
from tests.conftest import DatabaseFactory

RECORD = ModelRecord(
    publisher="acme",
    model="talker",
    collection="curated",
    display_name="Talker",
    license=License(id="MIT", text="Permission is granted."),
    tasks=(),
    deployment_options=("MANAGED",),
    usability="NEEDS_HARDWARE",
    usability_detail="no engine here",
    sources=(Source(location="a test", date="2026-01-01"),),
    versions=(VersionRecord(version="2", position=2),),
)


async def put(database: Database, *records: ModelRecord, source: str = "import") -> PutResult:
    async with database.unit_of_work() as uow:
        return await put_models(uow, database, START, source, prepare_models(records))


async def rows(database: Database) -> dict[str, Any]:
    async with database.reader() as session:
        return {row.name: row for row in (await session.execute(select(ModelRow))).scalars()}


def named(model: str, **changes: Any) -> ModelRecord:
    return msgspec.structs.replace(RECORD, model=model, **changes)


async def test_only_what_differs_is_changed(make_database: DatabaseFactory) -> None:
    """What is the same keeps its place in the order of changes, and the order has no gap."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await put(database, named("a"), named("b"), named("c"))
    result = await put(database, named("a"), named("b", summary="New."), named("d"))
    assert [result.unchanged, result.changed, result.added] == [
        ["publishers/acme/models/a"],
        ["publishers/acme/models/b"],
        ["publishers/acme/models/d"],
    ]
    found = (await rows(database)).values()
    assert {row.name.rpartition("/")[2]: row.change_sequence for row in found} == {"a": 1, "c": 3, "b": 4, "d": 5}


async def test_a_model_belongs_to_the_source_that_brought_it(make_database: DatabaseFactory) -> None:
    """Another one cannot change it; the others of the batch are taken."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await put(database, RECORD)
    result = await put(database, named("talker", summary="Mine now."), named("b"), source="hub")
    (refusal,) = result.refused
    assert (refusal.model, refusal.field) == ("publishers/acme/models/talker", "publisher")
    assert "'import'" in refusal.reason
    assert result.added == ["publishers/acme/models/b"]
    assert "summary" not in (await rows(database))["publishers/acme/models/talker"].facts


async def test_an_older_version_leaves_the_facts_of_the_newest(make_database: DatabaseFactory) -> None:
    """It is added beside it."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await put(database, named("talker", summary="Newest."))
    older = named("talker", summary="Older.", versions=(VersionRecord(version="1", position=1),))
    assert (await put(database, older)).version_count == 1
    (row,) = (await rows(database)).values()
    assert (row.facts["summary"], row.latest_version) == ("Newest.", "publishers/acme/models/talker/versions/2")


async def test_a_version_that_its_publisher_rewrote_is_refused(make_database: DatabaseFactory) -> None:
    """Under the same number the same must stand."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await put(database, RECORD)
    rewritten = named("talker", versions=(VersionRecord(version="2", position=2, origin={"path": "./other"}),))
    (refusal,) = (await put(database, rewritten)).refused
    assert "publishers/acme/models/talker/versions/2" in refusal.reason


FILE = ArtifactRecord(name="model.gguf", sha256="a" * 64, size_bytes=1, uri="hub:x")
SERVED = VersionRecord(version="2", position=2, artifacts=(FILE,), serving={"engine": "llamacpp", "min_vcpus": 1})


async def test_a_version_that_could_not_be_deployed_may_become_complete(make_database: DatabaseFactory) -> None:
    """Its gate was opened, or a newer release has an engine for it; from then on it is immutable."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await put(database, RECORD)
    assert (await put(database, named("talker", versions=(SERVED,)))).changed == ["publishers/acme/models/talker"]
    assert (await put(database, named("talker", versions=(SERVED,)))).unchanged == ["publishers/acme/models/talker"]
    (refusal,) = (await put(database, RECORD)).refused
    assert "immutable" in refusal.reason


async def test_its_files_stay_those_that_were_listed(make_database: DatabaseFactory) -> None:
    database = await make_database(CHASSIS, MIGRATIONS)
    other = msgspec.structs.replace(FILE, sha256="b" * 64)
    await put(database, named("talker", versions=(VersionRecord(version="2", position=2, artifacts=(other,)),)))
    (refusal,) = (await put(database, named("talker", versions=(SERVED,)))).refused
    assert "immutable" in refusal.reason


async def test_a_licence_is_stored_once(make_database: DatabaseFactory) -> None:
    """Models under it name its digest."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await put(database, named("a"), named("b"))
    assert len({row.license_digest for row in (await rows(database)).values()}) == 1
