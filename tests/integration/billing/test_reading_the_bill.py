"""The bill, its explanation and its reconciliation."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import delete, insert, update

from chassis.database import Database
from chassis.errors import PageTokenInvalid
from chassis.paging import page_token_encode
from services.billing.domain.bill import Line, arithmetic
from services.billing.domain.errors import LineNotFound, PeriodInvalid
from services.billing.domain.meters import Meter
from services.billing.storage import reads
from services.billing.storage.ledger import table
from services.billing.storage.tables import RollupRow, WindowRow
from services.billing.usecases.post_usage import post_usage
from services.billing.usecases.read_bill import LineEvent, explain_line, get_bill, reconcile
from tests.clock import START, ManualClock
from tests.conftest import DatabaseFactory
from tests.integration.billing.build import (
    HOUR_PRICE,
    OTHER_PROJECT,
    PROJECT,
    allocate,
    ledger_with_prices,
    observe,
    release,
    tokens_price,
    usage,
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def explained(
    database: Database, clock: ManualClock, line: Line, size: int = 50, project_uid: str = PROJECT
) -> list[LineEvent]:
    """All events of a line, page by page."""
    events: list[LineEvent] = []
    token = ""
    while True:
        page = await explain_line(database, clock, project_uid, "", line.key.line_id, size, token)
        events += page.events
        token = page.next_page_token
        if not token:
            return events


async def differences(database: Database, clock: ManualClock) -> list[str]:
    return [kind for kind, _ in (await reconcile(database, clock, PROJECT, "")).differences]


async def test_a_line_is_one_rate_and_one_sum(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """By deployment, version, meter, price version and key; each rounded once."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(1), usage(2), usage(3, key_id="k2")])
    bill = await get_bill(database, clock, PROJECT, "")
    assert [(line.key.meter, line.key.key_id, line.sum.quantity, str(line.amount)) for line in bill.lines] == [
        (Meter.INPUT_TOKENS, "k1", 20, "0.000006"),
        (Meter.INPUT_TOKENS, "k2", 10, "0.000003"),
        (Meter.OUTPUT_TOKENS, "k1", 6, "0.000004"),
        (Meter.OUTPUT_TOKENS, "k2", 3, "0.000002"),
    ]
    assert str(bill.total) == "0.000015"


@pytest.mark.parametrize(
    ("meter", "amount", "quantity", "owed", "said"),
    [
        (Meter.AUDIO_MILLISECONDS, "0.006", 8_470, "0.000847", "8470 audio-milliseconds x 0.006 USD / 60000"),
        (Meter.IMAGES, "0.15", 3, "0.000450", "3 images x 0.15 USD / 1000"),
    ],
)
async def test_audio_and_images_are_lines_of_their_own(
    make_database: DatabaseFactory, clock: ManualClock, meter: Meter, amount: str, quantity: int, owed: str, said: str
) -> None:
    """In their own unit, down to the record and the arithmetic, and the records agree with the rollups."""
    price = replace(tokens_price(), amounts={meter: Decimal(amount)})
    database = await ledger_with_prices(make_database, price)
    await post_usage(database, clock, [usage(quantities=((Meter.REQUESTS, 1), (meter, quantity)))])
    bill = await get_bill(database, clock, PROJECT, "")
    (line,) = bill.lines
    assert (line.key.meter, line.sum.quantity, str(line.amount)) == (meter, quantity, owed)
    assert bill.unrated == {Meter.REQUESTS: 1}
    assert arithmetic(line).startswith(said)
    assert [event.quantity for event in await explained(database, clock, line)] == [quantity]
    assert await differences(database, clock) == []


async def test_a_bill_holds_one_projects_usage(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """And no other's."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(1, project_uid=OTHER_PROJECT)])
    assert (await get_bill(database, clock, PROJECT, "")).lines == []


async def test_managed_calls_are_shown_unrated(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """They carry no price version and cost nothing."""
    database = await ledger_with_prices(make_database)
    managed = usage(quantities=((Meter.INPUT_TOKENS, 10), (Meter.REQUESTS, 1)), price_version="", quote="")
    await post_usage(database, clock, [managed])
    bill = await get_bill(database, clock, PROJECT, "")
    assert bill.lines == []
    assert bill.unrated == {Meter.INPUT_TOKENS: 10, Meter.REQUESTS: 1}


async def test_a_meter_without_a_rate_is_shown_unrated(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """The price has none for it: the rest of the bill stands."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(quantities=((Meter.INPUT_TOKENS, 10), (Meter.REQUESTS, 1)))])
    bill = await get_bill(database, clock, PROJECT, "")
    assert [line.key.meter for line in bill.lines] == [Meter.INPUT_TOKENS]
    assert bill.unrated == {Meter.REQUESTS: 1}


async def test_usage_under_an_unknown_price_does_not_break_the_bill(
    make_database: DatabaseFactory, clock: ManualClock
) -> None:
    """It is shown unrated, and Reconcile says that a price is missing."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(1), usage(2, price_version="gone@1/talker")])
    bill = await get_bill(database, clock, PROJECT, "")
    assert [line.sum.quantity for line in bill.lines] == [10, 3]
    assert bill.unrated == {Meter.INPUT_TOKENS: 10, Meter.OUTPUT_TOKENS: 3}
    found = (await reconcile(database, clock, PROJECT, "")).differences
    assert [(kind, "gone@1/talker" in detail) for kind, detail in found] == [("price", True)]


async def test_an_instance_under_an_unknown_price_does_not_break_the_bill(
    make_database: DatabaseFactory, clock: ManualClock
) -> None:
    """Its core-hours are shown unrated, posted and open alike."""
    database = await ledger_with_prices(make_database)
    await allocate(database, clock, price_version="gone@1/small")
    await observe(database, clock, START + timedelta(hours=1, milliseconds=1))
    bill = await get_bill(database, clock, PROJECT, "")
    assert bill.unrated == {Meter.CORE_MILLISECONDS: 2 * 3_600_001}


async def test_the_total_is_the_sum_of_what_the_lines_show(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Rounded lines, not a rounded sum: a reader can add them up."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(n, key_id=f"k{n}", quantities=((1, 2),)) for n in range(1, 11)])
    bill = await get_bill(database, clock, PROJECT, "")
    assert {str(line.amount) for line in bill.lines} == {"0.000001"}
    assert str(bill.total) == "0.000010"


async def test_an_empty_month_is_an_empty_bill(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Nothing is owed."""
    database = await ledger_with_prices(make_database)
    bill = await get_bill(database, clock, PROJECT, "2025-02")
    assert (bill.lines, str(bill.total), bill.currency) == ([], "0.000000", "USD")


async def test_what_is_no_month_is_refused(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Naming the form."""
    database = await ledger_with_prices(make_database)
    with pytest.raises(PeriodInvalid, match="YYYY-MM"):
        await get_bill(database, clock, PROJECT, "2026-13")


@pytest.mark.parametrize("size", [1, 2, 3, 50])
async def test_an_explained_line_sums_to_its_quantity(
    make_database: DatabaseFactory, clock: ManualClock, size: int
) -> None:
    """Over all pages, whatever their size, each record once."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(n, quantities=((1, n % 3), (2, 7))) for n in range(1, 7)])
    for line in (await get_bill(database, clock, PROJECT, "")).lines:
        events = await explained(database, clock, line, size)
        assert sum(event.quantity for event in events) == line.sum.quantity
        assert len({event.record_id for event in events}) == len(events) == line.sum.record_count


async def test_the_last_page_has_no_token(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Also when it is full."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(1), usage(2)])
    (line, _) = (await get_bill(database, clock, PROJECT, "")).lines
    page = await explain_line(database, clock, PROJECT, "", line.key.line_id, 2, "")
    assert (len(page.events), page.next_page_token) == (2, "")


async def test_a_line_of_another_project_is_not_explained(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """It does not exist there."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(1, project_uid=OTHER_PROJECT)])
    (line, _) = (await get_bill(database, clock, OTHER_PROJECT, "")).lines
    with pytest.raises(LineNotFound):
        await explain_line(database, clock, PROJECT, "", line.key.line_id, 0, "")


@pytest.mark.parametrize("meter", [Meter.INPUT_TOKENS, Meter.CORE_MILLISECONDS])
async def test_a_malformed_position_is_a_malformed_token(
    make_database: DatabaseFactory, clock: ManualClock, meter: Meter
) -> None:
    """Whoever made it up: the caller is told, nothing breaks."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(1)])
    await allocate(database, clock)
    await release(database, clock, START + timedelta(hours=1))
    line = next(line for line in (await get_bill(database, clock, PROJECT, "")).lines if line.key.meter is meter)
    for position in ([], [7, 7, 7], ["x", "y"], [-1, "y"], [0, 1 << 70, "y"], ["a\0b"], [0, 5, "a\0b"], [5]):
        token = page_token_encode(f"ExplainLine/{PROJECT}/2026-01/{line.key.line_id}", position)
        with pytest.raises(PageTokenInvalid):
            await explain_line(database, clock, PROJECT, "", line.key.line_id, 0, token)


async def test_a_sound_ledger_has_no_difference(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Records, windows, rollups and journals agree; both sums are told by meter."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(1), usage(2)])
    await allocate(database, clock)
    await observe(database, clock, START + timedelta(hours=1.5))
    found = await reconcile(database, clock, PROJECT, "")
    assert found.differences == []
    assert (
        found.records
        == found.rollups
        == {
            Meter.INPUT_TOKENS: 20,
            Meter.OUTPUT_TOKENS: 6,
            Meter.CORE_MILLISECONDS: 2 * 3_600_000,
        }
    )
    assert found.record_count == 2


async def test_reconcile_finds_a_wrong_rollup(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """By one token."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(1)])
    rollup = table(RollupRow)
    async with database.unit_of_work() as uow:
        await uow.session.execute(
            update(rollup).values(quantity=rollup.c.quantity + 1).where(rollup.c.meter == int(Meter.INPUT_TOKENS))
        )
    ((kind, detail),) = (await reconcile(database, clock, PROJECT, "")).differences
    assert kind == "rollup"
    assert "10 in 1 records" in detail
    assert "11 in 1 records" in detail


async def test_reconcile_finds_a_rollup_that_is_missing(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Records that no line sums."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(1)])
    async with database.unit_of_work() as uow:
        await uow.session.execute(delete(table(RollupRow)))
    assert await differences(database, clock) == ["rollup", "rollup"]


async def test_reconcile_finds_a_window_that_is_missing(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """The instance lived longer than was posted, though the rollup agrees with the windows."""
    database = await ledger_with_prices(make_database)
    await allocate(database, clock)
    await observe(database, clock, START + timedelta(hours=1))
    async with database.unit_of_work() as uow:
        await uow.session.execute(delete(table(WindowRow)))
        await uow.session.execute(delete(table(RollupRow)))
    assert await differences(database, clock) == ["window"]


async def test_reconcile_finds_a_journal_gap(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Something between the records is missing."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(1), usage(3)])
    assert await differences(database, clock) == ["journal-gap"]


async def test_reconcile_tells_a_conflict(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """It was not billed, and a person has to look."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(1), usage(1, quantities=((1, 500),))])
    assert await differences(database, clock) == ["conflict"]


@pytest.mark.parametrize("read", [get_bill, reconcile])
async def test_a_bill_is_of_one_moment(
    make_database: DatabaseFactory, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, read: object
) -> None:
    """A window that is posted while a bill is read is on it once: open or posted, never neither."""
    databases = [await ledger_with_prices(make_database), await ledger_with_prices(make_database)]
    await allocate(databases[0], clock)
    await observe(databases[0], clock, START + timedelta(minutes=30))
    rollup_sums = reads.rollup_sums

    async def post_after(*arguments: object) -> object:
        sums = await rollup_sums(*arguments)  # type: ignore[arg-type]
        await observe(databases[1], clock, START + timedelta(hours=1))
        return sums

    monkeypatch.setattr(reads, "rollup_sums", post_after)
    if read is get_bill:
        (line,) = (await get_bill(databases[0], clock, PROJECT, "")).lines
        assert line.sum.quantity == 2 * 1_800_000
    else:
        assert (await reconcile(databases[0], clock, PROJECT, "")).differences == []


async def test_a_large_sum_is_exact(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """To the last place, far beyond what a float or 28 digits hold."""
    database = await ledger_with_prices(make_database)
    row = {
        "project_uid": PROJECT,
        "period": "2026-01",
        "deployment_uid": "d",
        "model_version": "m",
        "meter": int(Meter.CORE_MILLISECONDS),
        "price_version": HOUR_PRICE,
        "key_id": "",
        "quantity": (1 << 63) - 1,
        "record_count": 1,
    }
    async with database.unit_of_work() as uow:
        await uow.session.execute(insert(table(RollupRow)), [row, {**row, "deployment_uid": "e"}])
    bill = await get_bill(database, clock, PROJECT, "")
    assert bill.lines[0].exact.denominator > 1
    assert sum(line.amount for line in bill.lines) == bill.total


async def test_zero_counts_are_no_events_of_a_line(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """The line counts the records it sums."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(1), replace(usage(2), quantities=((1, 0), (2, 5)))])
    (first, _) = (await get_bill(database, clock, PROJECT, "")).lines
    assert [event.record_id for event in await explained(database, clock, first)] == [usage(1).id]
    assert (await reads_count(database)) == 2


async def reads_count(database: Database) -> int:
    async with database.reader() as session:
        return await reads.record_count(session, PROJECT, "2026-01")
