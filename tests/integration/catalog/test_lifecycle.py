"""What is ahead of versions is listed and announced once each; who ends one too soon needs an override."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from modelyard.catalog.v1 import catalog_pb2, events_pb2, lifecycle_pb2
from sqlalchemy import select

from chassis.access import Caller
from chassis.access.caller import CallerKind, set_current_caller
from chassis.database import Database
from chassis.errors import InvalidArgument, Problem
from services.catalog.domain.errors import ModelNotFound
from services.catalog.domain.lifecycle import Notice
from services.catalog.main import MIGRATIONS
from services.catalog.rpc.lifecycle import LifecycleServicer
from services.catalog.storage.queries.models import version as stored_version
from services.catalog.storage.tables import CHASSIS
from services.catalog.usecases.announcements import announce_changes
from services.catalog.usecases.sync_content import sync_content
from tests.clock import START, ManualClock
from tests.conftest import DatabaseFactory
from tests.integration.catalog.build import VERSION_NAME, a_model, a_version, listed_only, write_content

DAY_S = 86_400
TODAY = START.date()
ANNOUNCE = (90, 30, 7, 1)
Change = lifecycle_pb2.VersionChange


def ahead(days: int) -> date:
    return TODAY + timedelta(days=days)


async def catalog(make_database: DatabaseFactory, folder: Path, *models: dict[str, Any]) -> Database:
    database = await make_database(CHASSIS, MIGRATIONS)
    await sync_content(database, ManualClock(), write_content(folder, *models), notice=Notice())
    set_current_caller(Caller("user:admin", CallerKind.USER, is_admin=True))
    return database


async def load(database: Database, folder: Path, clock: ManualClock, lifecycle: dict[str, Any]) -> str:
    """Read the content with other dates; the retirement date that is stored then."""
    model = a_model(summary="Talks more.", versions=[a_version(lifecycle=lifecycle)])
    await sync_content(database, clock, write_content(folder, model), notice=Notice())
    return (await version(database)).retirement_date


async def version(database: Database) -> Any:
    async with database.reader() as session:
        return await stored_version(session, VERSION_NAME)


async def announced(database: Database) -> list[tuple[str, int, date]]:
    """(change, days ahead, day) of every announcement, oldest first."""
    outbox = database.tables.outbox
    async with database.reader() as session:
        rows = (await session.execute(select(outbox).order_by(outbox.c.row_number))).all()
    found = [
        events_pb2.VersionChangeAnnounced.FromString(row.data) for row in rows if ".change-announced." in row.subject
    ]
    return [
        (Change.Name(one.change).removeprefix("VERSION_CHANGE_"), one.days_ahead, one.change_time.ToDatetime().date())
        for one in found
    ]


async def test_a_change_is_announced_a_few_times(make_database: DatabaseFactory, tmp_path: Path) -> None:
    """90, 30, 7 and 1 days ahead, each once however often one looks, and nothing on the day itself."""
    lifecycle = {"retirement": ahead(100), "replacement": "acme/giant"}
    database = await catalog(
        make_database, tmp_path, a_model(versions=[a_version(lifecycle=lifecycle)]), listed_only("giant")
    )
    clock, before = ManualClock(), (await version(database)).event_sequence
    for _ in range(102):
        for _ in range(2):
            await announce_changes(database, clock, ANNOUNCE)
        clock.advance(DAY_S)
    assert await announced(database) == [("RETIREMENT", days, ahead(100)) for days in ANNOUNCE]
    assert (await version(database)).event_sequence == before + len(ANNOUNCE)


async def test_what_was_missed_collapses(make_database: DatabaseFactory, tmp_path: Path) -> None:
    """After a long sleep the nearest is announced, and those before it never."""
    database = await catalog(
        make_database, tmp_path, a_model(versions=[a_version(lifecycle={"retirement": ahead(95)})])
    )
    clock = ManualClock()
    clock.advance(90 * DAY_S)
    assert await announce_changes(database, clock, ANNOUNCE) == 1
    assert await announce_changes(database, clock, ANNOUNCE) == 0
    assert await announced(database) == [("RETIREMENT", 7, ahead(95))]


async def test_a_day_that_moves_is_announced_anew(make_database: DatabaseFactory, tmp_path: Path) -> None:
    """Who was told the old day is told the new one, as far ahead as it is."""
    database = await catalog(
        make_database, tmp_path, a_model(versions=[a_version(lifecycle={"retirement": ahead(95)})])
    )
    clock = ManualClock()
    clock.advance(90 * DAY_S)
    await announce_changes(database, clock, ANNOUNCE)
    assert await load(database, tmp_path, clock, {"retirement": ahead(150)}) == ahead(150).isoformat()
    await announce_changes(database, clock, ANNOUNCE)
    assert (await announced(database))[1:] == [("RETIREMENT", 90, ahead(150))]


async def test_every_kind_of_change_is_announced(make_database: DatabaseFactory, tmp_path: Path) -> None:
    """Inference and fine-tuning apart."""
    lifecycle = {
        "legacy": ahead(1),
        "deprecation": ahead(31),
        "retirement": ahead(121),
        "fine_tune_deprecation": ahead(7),
        "fine_tune_retirement": ahead(30),
    }
    database = await catalog(make_database, tmp_path, a_model(versions=[a_version(lifecycle=lifecycle)]))
    await announce_changes(database, ManualClock(), ANNOUNCE)
    assert await announced(database) == [
        ("LEGACY", 1, ahead(1)),
        ("FINE_TUNE_DEPRECATION", 7, ahead(7)),
        ("FINE_TUNE_RETIREMENT", 30, ahead(30)),
        ("DEPRECATION", 90, ahead(31)),
    ]


async def test_two_catalogs_announce_once(make_database: DatabaseFactory, tmp_path: Path) -> None:
    """They take turns, and the second finds it said."""
    database = await catalog(
        make_database, tmp_path, a_model(versions=[a_version(lifecycle={"retirement": ahead(95)})])
    )
    other, clock = await make_database(CHASSIS, MIGRATIONS), ManualClock()
    clock.advance(10 * DAY_S)
    for one in (database, other):
        await announce_changes(one, clock, ANNOUNCE)
    assert len(await announced(database)) == 1


async def test_what_is_ahead_is_listed(make_database: DatabaseFactory, tmp_path: Path) -> None:
    """By day, within the window, without what is past, page by page."""
    models = [
        a_model(
            versions=[a_version(lifecycle={"legacy": ahead(-5), "deprecation": ahead(40), "retirement": ahead(200)})]
        ),
        listed_only("giant", versions=[{"version": "1", "lifecycle": {"legacy": ahead(40)}}]),
        listed_only("dwarf", versions=[{"version": "1", "lifecycle": {"retirement": ahead(91)}}]),
    ]
    servicer = LifecycleServicer(await catalog(make_database, tmp_path, *models), ManualClock())
    found, request = [], lifecycle_pb2.ListUpcomingChangesRequest(page_size=1, days=100)
    while True:
        page = await servicer.ListUpcomingChanges(request, None)
        found += [(one.name.removeprefix("publishers/acme/models/"), one.days_left) for one in page.upcoming_changes]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == [
        ("giant/versions/1/changes/legacy", 40),
        ("talker/versions/1/changes/deprecation", 40),
        ("dwarf/versions/1/changes/retirement", 91),
    ]
    ninety = await servicer.ListUpcomingChanges(lifecycle_pb2.ListUpcomingChangesRequest(), None)
    assert len(ninety.upcoming_changes) == 2
    assert ninety.upcoming_changes[0].change_time.ToDatetime(UTC) == datetime.combine(
        ahead(40), datetime.min.time(), UTC
    )
    with pytest.raises(InvalidArgument, match="1 to 3660"):
        await servicer.ListUpcomingChanges(lifecycle_pb2.ListUpcomingChangesRequest(days=-1), None)


async def test_too_little_notice_leaves_the_model_as_it_was(make_database: DatabaseFactory, tmp_path: Path) -> None:
    """The rest of the content is loaded; with the promised notice the same change is taken."""
    database = await catalog(make_database, tmp_path, a_model(), listed_only("giant"))
    clock = ManualClock()
    assert await load(database, tmp_path, clock, {"retirement": ahead(5)}) == ""
    assert await load(database, tmp_path, clock, {"retirement": ahead(90)}) == ahead(90).isoformat()


async def test_an_override_lets_a_version_end_at_once(make_database: DatabaseFactory, tmp_path: Path) -> None:
    """For exactly these dates; who, when, why, what was and what may be stay on record, and when it was used."""
    database = await catalog(make_database, tmp_path, a_model())
    clock = ManualClock()
    servicer = LifecycleServicer(database, clock)
    request = lifecycle_pb2.CreateNoticeOverrideRequest(
        model_version=VERSION_NAME,
        dates=lifecycle_pb2.LifecycleDates(retirement=ahead(5).isoformat()),
        reason="its weights were found to be poisoned",
        request_id="once",
    )
    made = await servicer.CreateNoticeOverride(request, None)
    assert await servicer.CreateNoticeOverride(request, None) == made
    assert (made.principal, made.before.retirement, made.after.retirement) == ("user:admin", "", ahead(5).isoformat())
    assert not made.HasField("use_time")
    assert await load(database, tmp_path, clock, {"retirement": ahead(6)}) == ""
    assert await load(database, tmp_path, clock, {"retirement": ahead(5)}) == ahead(5).isoformat()
    (listed,) = (await servicer.ListNoticeOverrides(lifecycle_pb2.ListNoticeOverridesRequest(), None)).notice_overrides
    assert (listed.reason, listed.use_time.ToDatetime(UTC)) == (request.reason, START)


async def test_overrides_that_are_refused(make_database: DatabaseFactory, tmp_path: Path) -> None:
    """No version, no reason, no dates, or dates in another order."""
    servicer = LifecycleServicer(await catalog(make_database, tmp_path, a_model()), ManualClock())
    retires = {"retirement": ahead(5).isoformat()}
    refused: list[tuple[dict[str, Any], type[Problem]]] = [
        ({"model_version": "publishers/acme/models/nobody/versions/1", "dates": retires}, ModelNotFound),
        ({"model_version": "publishers/acme/models/talker", "dates": retires}, InvalidArgument),
        ({"dates": retires, "reason": "because"}, InvalidArgument),
        ({"dates": {}}, InvalidArgument),
        ({"dates": {"retirement": "soon"}}, InvalidArgument),
        ({"dates": {**retires, "deprecation": ahead(9).isoformat()}}, InvalidArgument),
    ]
    for asked, error in refused:
        wanted = {"model_version": VERSION_NAME, "reason": "a reason that is long enough", **asked}
        with pytest.raises(error):
            await servicer.CreateNoticeOverride(lifecycle_pb2.CreateNoticeOverrideRequest(**wanted), None)


async def test_a_first_appearance_is_taken_as_published(make_database: DatabaseFactory, tmp_path: Path) -> None:
    """Nobody here used it before, so nobody was promised anything."""
    database = await catalog(make_database, tmp_path, a_model(versions=[a_version(lifecycle={"retirement": ahead(2)})]))
    assert (await version(database)).stage == catalog_pb2.LIFECYCLE_STAGE_GA
    assert (await version(database)).retirement_date == ahead(2).isoformat()
