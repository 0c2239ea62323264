"""Usage is posted once, whatever comes again, beside it or broken."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from modelyard.billing.v1 import events_pb2
from modelyard.type.v1 import access_pb2, money_pb2, usage_pb2
from sqlalchemy import literal_column, select, update

from chassis.database import Database
from chassis.database.engine import MESSAGE_BYTES_MAX
from chassis.events import decode_projection, published_event
from chassis.ids import derived_uid
from services.billing.domain.usage import digest
from services.billing.events.consumed import Consumed
from services.billing.events.published import usage_to_proto
from services.billing.storage.ledger import billed_digests, table
from services.billing.storage.tables import JournalRow, PeriodRow, QuarantineRow, RollupRow, UsageRow
from services.billing.usecases.post_usage import post_usage
from tests.clock import START, ManualClock
from tests.conftest import DatabaseFactory
from tests.integration.billing.build import (
    JOURNAL,
    OTHER_PROJECT,
    PROJECT,
    count_of,
    ledger_with_prices,
    outbox,
    rollups,
    rows_of,
    shuffled,
    tokens,
    usage,
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def watermark(database: Database, journal_id: str = JOURNAL) -> int:
    return {row.journal_id: row.committed_seq for row in await rows_of(database, JournalRow)}.get(journal_id, 0)


async def close_period(database: Database, period: str) -> None:
    async with database.unit_of_work() as uow:
        uow.session.add(PeriodRow(period=period, closed=True))


async def test_a_duplicate_is_free(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """In the same call, in another one, and after any time."""
    database = await ledger_with_prices(make_database)
    assert await post_usage(database, clock, [usage(), usage()]) == 1
    clock.advance(400 * 86_400)
    assert await post_usage(database, clock, [usage()]) == 0
    assert await tokens(database) == 10
    assert await count_of(database, QuarantineRow) == 0


async def test_a_conflict_is_quarantined(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Other content under the same id is kept with both digests and bills nothing."""
    database = await ledger_with_prices(make_database)
    first, other = usage(), usage(quantities=((1, 500),))
    await post_usage(database, clock, [first])
    assert await post_usage(database, clock, [other]) == 0
    (kept,) = await rows_of(database, QuarantineRow)
    assert (kept.billed_digest, kept.quarantined_digest) == (digest(first), digest(other))
    assert usage_pb2.UsageRecord.FromString(kept.content) == usage_to_proto(other)
    assert await tokens(database) == 10


async def test_a_conflict_is_announced_once(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """However often the same content comes again."""
    database = await ledger_with_prices(make_database)
    first, other = usage(), usage(quantities=((1, 500),))
    await post_usage(database, clock, [first])
    for _ in range(3):
        await post_usage(database, clock, [other])
    (event,) = await outbox(database, "event", f"modelyard.billing.v1.usage.conflicted.{PROJECT}")
    assert events_pb2.UsageConflicted.FromString(event.data) == events_pb2.UsageConflicted(
        record_id=first.id, billed_digest=digest(first), quarantined_digest=digest(other)
    )


async def test_a_conflict_within_one_batch_is_found(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """The first one is billed, the other one is kept."""
    database = await ledger_with_prices(make_database)
    assert await post_usage(database, clock, [usage(), usage(quantities=((1, 500),))]) == 1
    assert await tokens(database) == 10
    assert await count_of(database, QuarantineRow) == 1


BROKEN = [
    {"id": "x" * 500},
    {"id": "a\0b"},
    {"journal_id": "no journal.>"},
    {"journal_id": "a\0b"},
    {"journal_seq": (1 << 64) - 1},
    {"project_uid": "no project.>"},
    {"project_uid": "a\0b"},
    {"model_version": "a\0b"},
    {"price_version": "p" * 5000},
    {"outcome": 0},
    {"quantities": ((1, -5),)},
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: next(iter(broken)))
async def test_a_broken_record_does_not_hold_up_its_neighbours(
    make_database: DatabaseFactory, clock: ManualClock, broken: dict[str, object]
) -> None:
    """It is kept aside whatever is wrong with it; the others of its message are billed."""
    database = await ledger_with_prices(make_database)
    assert await post_usage(database, clock, [usage(1), usage(2, **broken), usage(3)]) == 2
    (kept,) = await rows_of(database, QuarantineRow)
    assert kept.billed_digest == ""
    assert usage_pb2.UsageRecord.FromString(kept.content) == usage_to_proto(usage(2, **broken))


async def test_broken_records_block_no_relay(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Subjects, headers and keys of what waits in the outbox are ones the broker takes."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(number, **broken) for number, broken in enumerate(BROKEN, start=1)])
    events = await outbox(database, "event")
    assert len(events) == len(BROKEN)
    for row in events:
        assert re.fullmatch(r"modelyard\.billing\.v1\.usage\.conflicted\.(_|[0-9a-f-]{36})", row.subject)
        assert len(row.headers) < 1000
        assert "\\u0000" not in row.headers
    assert {row.headers for row in await outbox(database, "projection")} == {JOURNAL}


async def test_a_broken_time_does_not_hold_up_its_neighbours(
    make_database: DatabaseFactory, clock: ManualClock
) -> None:
    """A message with a time that no calendar has is taken apart record by record, never refused as a whole."""
    database = await ledger_with_prices(make_database)
    batch = usage_pb2.UsageBatch(records=[usage_to_proto(usage(number)) for number in (1, 2)])
    batch.records[1].occur_time.seconds = 1 << 60
    event = published_event(
        "inference", "usage", "recorded", batch, project_uid=None, aggregate_uid=JOURNAL, sequence=1, time=START
    )
    await Consumed(database, clock).usage([event])
    assert await tokens(database) == 10
    assert await watermark(database) == 2


async def test_a_quarantined_record_counts_for_the_watermark(
    make_database: DatabaseFactory, clock: ManualClock
) -> None:
    """A journal may forget it: it is kept here."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(1), usage(2, outcome=0), usage(3)])
    await post_usage(database, clock, [replace(usage(1), journal_seq=4), usage(5)])
    assert await watermark(database) == 5


async def test_the_watermark_waits_at_a_gap(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """And moves over everything at once when the gap is filled."""
    database = await ledger_with_prices(make_database)
    seen = []
    for number in (1, 3, 4, 2):
        await post_usage(database, clock, [usage(number)])
        seen.append(await watermark(database))
    assert seen == [1, 1, 1, 4]


async def test_a_watermark_moves_over_any_number_of_records(
    make_database: DatabaseFactory, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also over more than are looked at in one query."""
    monkeypatch.setattr("services.billing.storage.ledger.JOURNAL_SEQS_MAX", 3)
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(number) for number in range(2, 12)])
    await post_usage(database, clock, [usage(1)])
    assert await watermark(database) == 11


async def test_the_watermark_is_projected(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Under the journal's id, ordered by the position itself."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(1), usage(2)])
    (row,) = await outbox(database, "projection", "watermarks")
    sequence, value = decode_projection(row.data)
    assert row.headers == JOURNAL
    assert sequence == 2
    assert access_pb2.JournalWatermark.FromString(value).committed_seq == 2


async def test_the_watermark_is_said_again_to_who_sends_again(
    make_database: DatabaseFactory, clock: ManualClock
) -> None:
    """Who repeats a record has not heard that it is committed; a bucket may have been lost with its broker."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(1)])
    await post_usage(database, clock, [usage(1)])
    assert len(await outbox(database, "projection", "watermarks")) == 2


async def test_many_records_are_one_transaction(
    make_database: DatabaseFactory, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure at its end leaves nothing behind: no record, no sum, no event."""
    database = await ledger_with_prices(make_database)

    async def fail(*_: object) -> None:
        raise ConnectionError("the database went away")

    with monkeypatch.context() as patched:
        patched.setattr("services.billing.storage.ledger.advance_journal", fail)
        with pytest.raises(ConnectionError):
            await post_usage(database, clock, [usage(number) for number in range(1, 2001)])
    assert await count_of(database, UsageRow) == 0
    assert await rollups(database) == {}
    assert await outbox(database, "event") == []
    assert await post_usage(database, clock, [usage(number) for number in range(1, 2001)]) == 2000
    assert await tokens(database) == 20_000


async def test_any_number_of_duplicates_is_compared(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Also more than a statement may have parameters."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(33_000)])
    async with database.unit_of_work() as uow:
        found = await billed_digests(uow, [usage(number).id for number in range(1, 33_001)])
    assert found == {usage(33_000).id: digest(usage(33_000))}


async def test_two_consumers_at_once_give_one_sum(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Overlapping batches on two pools: every record once."""
    databases = [await ledger_with_prices(make_database), await ledger_with_prices(make_database)]
    facts = [usage(number, deployment_uid=derived_uid("test", str(number % 5))) for number in range(1, 201)]

    async def consume(database: Database, backwards: bool) -> int:
        batches = [facts[start : start + 20] for start in range(0, 200, 20)]
        return sum([await post_usage(database, clock, batch) for batch in (batches[::-1] if backwards else batches)])

    added = await asyncio.gather(consume(databases[0], False), consume(databases[1], True))
    assert sum(added) == 200
    assert await tokens(databases[0]) == 2000
    assert await watermark(databases[0]) == 200


async def test_rows_are_locked_in_key_order(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Whatever order records come in, rows are written by their keys: two posters never wait for each other in a ring."""
    database = await ledger_with_prices(make_database)
    facts = [usage(number, deployment_uid=derived_uid("test", str(number))) for number in range(1, 41)]
    await post_usage(database, clock, shuffled(facts, seed=1))
    place = literal_column("rowid" if database.is_sqlite else "ctid")
    record, rollup = table(UsageRow), table(RollupRow)
    async with database.reader() as session:
        records = list((await session.execute(select(record.c.id).order_by(place))).scalars())
        lines = list(await session.execute(select(rollup.c.deployment_uid, rollup.c.meter).order_by(place)))
    assert records == sorted(fact.id for fact in facts)
    assert lines == sorted(lines)


async def test_usage_is_announced_by_project(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Each project hears its own records and no other's."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(1), usage(2, project_uid=OTHER_PROJECT), usage(3)])
    heard = {
        row.subject.rpartition(".")[2]: [
            posted.record.id for posted in events_pb2.UsagePosted.FromString(row.data).usage
        ]
        for row in await outbox(database, "event", "modelyard.billing.v1.usage.posted.")
    }
    assert heard == {PROJECT: [usage(1).id, usage(3).id], OTHER_PROJECT: [usage(2).id]}


async def test_events_fit_the_broker(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """The largest records there may be are split over as many events as it takes."""
    database = await ledger_with_prices(make_database)
    large = {"model_version": "m" * 512, "price_version": "p" * 256, "quote": "q" * 512, "key_id": "k" * 128}
    await post_usage(database, clock, [usage(n, request_id="é" * 128, **large) for n in range(1, 1001)])
    events = await outbox(database, "event", "modelyard.billing.v1.usage.posted.")
    assert sum(len(events_pb2.UsagePosted.FromString(row.data).usage) for row in events) == 1000
    assert max(len(row.data) for row in events) <= MESSAGE_BYTES_MAX


async def test_usage_of_an_open_month_is_stamped_with_it(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """The month it happened in, also when it comes late."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(occur_time=datetime(2025, 12, 31, 23, 59, tzinfo=UTC))])
    (row,) = await rows_of(database, UsageRow)
    assert (row.period, row.correction) == ("2025-12", False)


async def test_usage_of_a_closed_month_is_a_correction(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """It is billed in the running month and says so."""
    database = await ledger_with_prices(make_database)
    await close_period(database, "2025-12")
    await post_usage(database, clock, [usage(occur_time=datetime(2025, 12, 31, 23, 59, tzinfo=UTC))])
    (row,) = await rows_of(database, UsageRow)
    assert (row.period, row.correction) == ("2026-01", True)
    assert {key[1] for key in await rollups(database)} == {"2026-01"}


async def test_nothing_is_posted_into_a_closed_month(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Also not by a service whose clock still says that it is running."""
    database = await ledger_with_prices(make_database)
    await close_period(database, "2026-01")
    await post_usage(database, clock, [usage()])
    (row,) = await rows_of(database, UsageRow)
    assert (row.period, row.correction) == ("2026-02", True)


async def test_a_record_keeps_its_period(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """A duplicate after the month was closed moves nothing."""
    database = await ledger_with_prices(make_database)
    late = usage(occur_time=datetime(2025, 12, 31, 23, 59, tzinfo=UTC))
    await post_usage(database, clock, [late])
    async with database.unit_of_work() as uow:
        await uow.session.execute(
            update(table(PeriodRow)).values(closed=True).where(table(PeriodRow).c.period == "2025-12")
        )
    await post_usage(database, clock, [late])
    assert {key[1] for key in await rollups(database)} == {"2025-12"}


async def test_closing_waits_for_records_being_posted(
    make_database: DatabaseFactory, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The period row is locked, shared, by whoever posts: no record slips into a month that has just been closed."""
    databases = [await ledger_with_prices(make_database), await ledger_with_prices(make_database)]
    await post_usage(databases[0], clock, [usage(1)])
    posting, go_on = asyncio.Event(), asyncio.Event()
    order: list[str] = []

    async def pause(*_: object) -> int:
        posting.set()
        await go_on.wait()
        order.append("posted")
        return 1

    async def close() -> None:
        async with databases[1].unit_of_work() as uow:
            await uow.session.execute(update(table(PeriodRow)).values(closed=True))
            order.append("closed")

    monkeypatch.setattr("services.billing.storage.ledger.advance_journal", pause)
    post = asyncio.create_task(post_usage(databases[0], clock, [usage(2)]))
    await posting.wait()
    closing = asyncio.create_task(close())
    done, _ = await asyncio.wait([closing], timeout=0.3)
    assert not done
    go_on.set()
    await asyncio.gather(post, closing)
    assert order == ["posted", "closed"]


async def test_a_record_at_zero_adds_no_line(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """It is in the ledger, and its journal may forget it."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(quantities=((int(money_pb2.METER_INPUT_TOKENS), 0),), outcome=4)])
    assert await count_of(database, UsageRow) == 1
    assert await rollups(database) == {}
    assert await watermark(database) == 1
