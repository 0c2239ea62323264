"""Instance facts become windows, each posted once, and an open line for the running hour."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.message import Message
from modelyard.deploy.v1 import events_pb2

from chassis.clock import ms_from_time
from chassis.database import Database
from chassis.events import published_event
from services.billing.domain.errors import InstanceFactInvalid
from services.billing.domain.meters import Meter
from services.billing.events.consumed import Consumed
from services.billing.events.published import timestamp
from services.billing.storage.tables import PeriodRow, WindowRow
from services.billing.usecases.read_bill import LineEvent, explain_line, get_bill, reconcile
from tests.clock import START, ManualClock
from tests.conftest import DatabaseFactory
from tests.integration.billing.build import (
    DEPLOYMENT,
    ENDPOINT,
    INSTANCE,
    PROJECT,
    allocate,
    allocation,
    ledger_with_prices,
    observe,
    release,
    rollups,
    rows_of,
)

HOUR = timedelta(hours=1)
MINUTE_CORE_MS = 2 * 60_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def posted(database: Database) -> list[tuple[float, float]]:
    """Posted windows, in hours after START."""
    begin = ms_from_time(START)
    return sorted(
        ((row.start_ms - begin) / 3_600_000, (row.end_ms - begin) / 3_600_000)
        for row in await rows_of(database, WindowRow)
    )


async def open_quantity(database: Database, clock: ManualClock, period: str = "") -> int:
    bill = await get_bill(database, clock, PROJECT, period)
    return sum(line.sum.open for line in bill.lines)


async def test_a_window_is_posted_when_its_hour_is_over(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Not before it was seen to be over."""
    database = await ledger_with_prices(make_database)
    await allocate(database, clock)
    seen = []
    for minutes in (1, 59, 60, 61, 119):
        await observe(database, clock, START + timedelta(minutes=minutes))
        seen.append(await posted(database))
    assert seen == [[], [], [(0, 1)], [(0, 1)], [(0, 1)]]


async def test_a_release_posts_the_rest(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """To the millisecond."""
    database = await ledger_with_prices(make_database)
    await allocate(database, clock)
    await release(database, clock, START + HOUR + timedelta(milliseconds=1))
    assert [(row.core_ms, row.correction) for row in await rows_of(database, WindowRow)] == [
        (2 * 3_600_000, False),
        (2, False),
    ]


async def test_facts_that_come_again_add_nothing(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Every window once, every sum once."""
    database = await ledger_with_prices(make_database)
    for _ in range(3):
        await allocate(database, clock)
        await observe(database, clock, START + 2 * HOUR)
        await release(database, clock, START + 2.5 * HOUR)
    assert await posted(database) == [(0, 1), (1, 2), (2, 2.5)]
    ((quantity, count),) = (await rollups(database)).values()
    assert (quantity, count) == (int(2 * 2.5 * 3_600_000), 3)


async def test_a_life_is_told_backwards(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """The allocation comes last and posts everything."""
    database = await ledger_with_prices(make_database)
    await release(database, clock, START + 1.5 * HOUR)
    await observe(database, clock, START + HOUR)
    assert await posted(database) == []
    await allocate(database, clock)
    assert await posted(database) == [(0, 1), (1, 1.5)]


async def test_the_running_hour_is_an_open_line(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """It grows with each sighting, and becomes posted when it is over: the bill does not jump."""
    database = await ledger_with_prices(make_database)
    await allocate(database, clock)
    seen = []
    for minutes in (1, 30, 60, 61):
        await observe(database, clock, START + timedelta(minutes=minutes))
        (line,) = (await get_bill(database, clock, PROJECT, "")).lines
        seen.append((line.sum.quantity // MINUTE_CORE_MS, line.sum.open // MINUTE_CORE_MS, line.sum.record_count))
    assert seen == [(1, 1, 1), (30, 30, 1), (60, 0, 1), (61, 1, 2)]


async def test_an_hour_costs_what_the_list_says(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """0.096 USD an hour of the whole instance, whatever its cores."""
    database = await ledger_with_prices(make_database)
    await allocate(database, clock)
    await release(database, clock, START + HOUR)
    bill = await get_bill(database, clock, PROJECT, "")
    assert str(bill.total) == "0.096000"


@pytest.mark.parametrize("size", [1, 2, 3, 50])
async def test_an_explained_core_hour_shows_posted_and_open_windows(
    make_database: DatabaseFactory, clock: ManualClock, size: int
) -> None:
    """Page by page, no page longer than asked for: posted ones, then those of every living instance; they are the line."""
    database = await ledger_with_prices(make_database)
    for instance_uid in (INSTANCE, ENDPOINT, DEPLOYMENT):
        await allocate(database, clock, instance_uid=instance_uid)
        await observe(database, clock, START + 1.25 * HOUR, instance_uid)
    (line,) = (await get_bill(database, clock, PROJECT, "")).lines
    events: list[LineEvent] = []
    token = ""
    while True:
        page = await explain_line(database, clock, PROJECT, "", line.key.line_id, size, token)
        assert 1 <= len(page.events) <= size
        events += page.events
        token = page.next_page_token
        if not token:
            break
    assert [event.open for event in events] == [False] * 3 + [True] * 3
    assert len({event.record_id for event in events}) == 6
    assert sum(event.quantity for event in events) == line.sum.quantity


async def test_a_life_over_midnight_of_a_month_is_on_both_bills(
    make_database: DatabaseFactory, clock: ManualClock
) -> None:
    """Each window in the month it lies in."""
    database = await ledger_with_prices(make_database)
    await allocate(database, clock, allocate_time=datetime(2025, 12, 31, 23, tzinfo=UTC))
    await observe(database, clock, datetime(2026, 1, 1, 0, 30, tzinfo=UTC))
    totals = [str((await get_bill(database, clock, PROJECT, period)).total) for period in ("2025-12", "2026-01")]
    assert totals == ["0.096000", "0.048000"]


async def test_the_open_window_of_a_closed_month_is_on_the_running_bill(
    make_database: DatabaseFactory, clock: ManualClock
) -> None:
    """Where it will be posted, as a correction: a closed bill never changes."""
    database = await ledger_with_prices(make_database)
    async with database.unit_of_work() as uow:
        uow.session.add(PeriodRow(period="2025-12", closed=True))
    await allocate(database, clock, allocate_time=datetime(2025, 12, 31, 23, tzinfo=UTC))
    await observe(database, clock, datetime(2025, 12, 31, 23, 30, tzinfo=UTC))
    assert await open_quantity(database, clock, "2025-12") == 0
    assert await open_quantity(database, clock, "2026-01") == 30 * MINUTE_CORE_MS
    await release(database, clock, datetime(2025, 12, 31, 23, 30, tzinfo=UTC))
    (window,) = await rows_of(database, WindowRow)
    assert (window.period, window.correction) == ("2026-01", True)


@pytest.mark.parametrize(
    "other",
    [
        {"allocate_time": START + timedelta(seconds=1)},
        {"vcpus": 4},
        {"price_version": "test@2/small"},
        {"deployment_uid": ENDPOINT},
        {"project_uid": DEPLOYMENT},
        {"model_version": "publishers/acme/models/talker/versions/2"},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_an_instance_is_allocated_once(
    make_database: DatabaseFactory, clock: ManualClock, other: dict[str, Any]
) -> None:
    """Another allocation of the same instance is refused: its later windows would land on another line."""
    database = await ledger_with_prices(make_database)
    await allocate(database, clock)
    with pytest.raises(InstanceFactInvalid):
        await allocate(database, clock, **other)
    await release(database, clock, START + HOUR)
    (window,) = await rows_of(database, WindowRow)
    assert (window.price_version, window.core_ms) == (allocation().price_version, 2 * 3_600_000)


@pytest.mark.parametrize(
    "broken",
    [
        {"instance_uid": ""},
        {"project_uid": "shop"},
        {"deployment_uid": "a\0b"},
        {"model_version": "a\0b"},
        {"price_version": "p" * 513},
        {"vcpus": 0},
    ],
    ids=lambda broken: next(iter(broken)),
)
async def test_a_broken_allocation_is_refused(
    make_database: DatabaseFactory, clock: ManualClock, broken: dict[str, Any]
) -> None:
    """A Problem, which makes it a dead letter; an error of the database would stop the consumer for good."""
    database = await ledger_with_prices(make_database)
    with pytest.raises(InstanceFactInvalid):
        await allocate(database, clock, **broken)


async def test_an_instance_ends_once(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Another end is refused."""
    database = await ledger_with_prices(make_database)
    await allocate(database, clock)
    await release(database, clock, START + HOUR)
    with pytest.raises(InstanceFactInvalid):
        await release(database, clock, START + 2 * HOUR)


@pytest.mark.parametrize("seen_first", [True, False])
async def test_a_release_before_the_last_sighting_gives_one_bill(
    make_database: DatabaseFactory, clock: ManualClock, seen_first: bool
) -> None:
    """Whichever comes first: it lived as long as it was seen, and Reconcile has nothing to say."""
    database = await ledger_with_prices(make_database)
    await allocate(database, clock)
    facts = [lambda: observe(database, clock, START + HOUR), lambda: release(database, clock, START + 0.9 * HOUR)]
    for tell in facts if seen_first else facts[::-1]:
        await tell()
    (line,) = (await get_bill(database, clock, PROJECT, "")).lines
    assert line.sum.quantity == 2 * 3_600_000
    assert (await reconcile(database, clock, PROJECT, "")).differences == []


FACTS: dict[str, Message] = {
    "allocated": events_pb2.InstanceAllocated(
        instance_uid=INSTANCE, project_uid=PROJECT, deployment_uid=DEPLOYMENT, vcpus=2
    ),
    "observed": events_pb2.InstanceObserved(instance_uid=INSTANCE),
    "released": events_pb2.InstanceReleased(instance_uid=INSTANCE),
}
TIMES = {"allocated": "allocate_time", "observed": "through_time", "released": "release_time"}


@pytest.mark.parametrize("action", FACTS)
@pytest.mark.parametrize("said", ["missing", "not a time", "next year"])
async def test_a_fact_without_a_sound_time_is_refused(
    make_database: DatabaseFactory, clock: ManualClock, action: str, said: str
) -> None:
    """A Problem, which makes it a dead letter: it would be a life since 1970, or one that is not over yet."""
    database = await ledger_with_prices(make_database)
    await allocate(database, clock, instance_uid=ENDPOINT)
    message = type(FACTS[action])()
    message.CopyFrom(FACTS[action])
    if said == "not a time":
        getattr(message, TIMES[action]).seconds = 1 << 60
    elif said == "next year":
        getattr(message, TIMES[action]).CopyFrom(timestamp(START + timedelta(days=365)))
    event = published_event(
        "deploy", "instance", action, message, project_uid=PROJECT, aggregate_uid=INSTANCE, sequence=1, time=START
    )
    with pytest.raises(InstanceFactInvalid):
        async with database.unit_of_work() as uow:
            await Consumed(database, clock).instance(uow, event)


async def test_windows_keep_the_price_of_the_allocation(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """The line is rated by the version the deployment was made against."""
    database = await ledger_with_prices(make_database)
    await allocate(database, clock)
    await release(database, clock, START + HOUR)
    ((key, (quantity, _)),) = (await rollups(database)).items()
    assert key[4:6] == (int(Meter.CORE_MILLISECONDS), allocation().price_version)
    assert quantity == 2 * 3_600_000


async def test_each_instance_of_a_deployment_is_summed_on_one_line(
    make_database: DatabaseFactory, clock: ManualClock
) -> None:
    """The count is not part of the price: two instances are twice the core-hours."""
    database = await ledger_with_prices(make_database)
    for instance_uid in (INSTANCE, ENDPOINT):
        await allocate(database, clock, instance_uid=instance_uid)
        await release(database, clock, START + HOUR, instance_uid)
    (line,) = (await get_bill(database, clock, PROJECT, "")).lines
    assert line.sum.quantity == 2 * 2 * 3_600_000
