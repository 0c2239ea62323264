"""Any order and any repetition of the facts gives the same ledger, on a real database."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import create_async_engine

from chassis.clock import ms_from_time, time_from_ms
from chassis.database import Database
from chassis.ids import derived_uid
from services.billing.domain.meters import CALL_METERS
from services.billing.domain.periods import period_of
from services.billing.domain.usage import UsageFact
from services.billing.domain.windows import HOUR_MS, Life, cut
from services.billing.storage.tables import CHASSIS, BillingTable, JournalRow, QuarantineRow, WindowRow
from services.billing.usecases.post_usage import post_usage
from services.billing.usecases.prices import store_prices
from services.billing.usecases.read_bill import get_bill, reconcile
from tests.clock import START, ManualClock
from tests.integration.billing.build import (
    INSTANCE,
    JOURNAL,
    PROJECT,
    TOKENS_PRICE,
    allocate,
    allocation,
    count_of,
    hour_price,
    observe,
    release,
    rollups,
    rows_of,
    tokens_price,
    usage,
)

VCPUS = allocation().vcpus
# A database is made for every example.
on_a_database = settings(max_examples=25, deadline=None)


@asynccontextmanager
async def empty_ledger() -> AsyncIterator[Database]:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{Path(folder) / 'ledger.db'}"
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.run_sync(BillingTable.metadata.create_all)
        await engine.dispose()
        database = Database(url, CHASSIS)
        try:
            await store_prices(database, [tokens_price(), hour_price()])
            yield database
        finally:
            await database.dispose()


@st.composite
def calls(draw: st.DrawFn) -> list[UsageFact]:
    """The records of one journal, 1 to 8, on few lines."""
    return [
        usage(
            number,
            deployment_uid=derived_uid("test", draw(st.sampled_from("ab"))),
            key_id=draw(st.sampled_from(["k1", "k2"])),
            price_version=draw(st.sampled_from([TOKENS_PRICE, ""])),
            occur_time=START - timedelta(days=draw(st.integers(0, 40))),
            outcome=draw(st.integers(1, 5)),
            quantities=tuple(
                (int(meter), draw(st.integers(0, 10**6))) for meter in draw(st.sets(st.sampled_from(CALL_METERS)))
            ),
        )
        for number in range(1, draw(st.integers(1, 8)) + 1)
    ]


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[UsageFact], list[list[UsageFact]]]:
    """Records, and how they arrive: every one at least once, in any order, in any batches."""
    facts = draw(calls())
    repeats = draw(st.lists(st.sampled_from(facts), max_size=8))
    order = draw(st.permutations(facts + repeats))
    batches, rest = [], list(order)
    while rest:
        size = draw(st.integers(1, len(rest)))
        batches.append(rest[:size])
        rest = rest[size:]
    return facts, batches


def sums_of(facts: list[UsageFact]) -> dict[tuple[Any, ...], tuple[int, int]]:
    """What the rollups have to say, counted the plain way."""
    quantities: Counter[tuple[Any, ...]] = Counter()
    records: Counter[tuple[Any, ...]] = Counter()
    for fact in facts:
        for meter, value in fact.quantities:
            if value:
                key = (
                    fact.project_uid,
                    period_of(fact.occur_time),
                    fact.deployment_uid,
                    fact.model_version,
                    meter,
                    fact.price_version,
                    fact.key_id,
                )
                quantities[key] += value
                records[key] += 1
    return {key: (quantities[key], records[key]) for key in quantities}


@on_a_database
@given(logs())
def test_usage_in_any_order_and_repetition_gives_one_ledger(log: tuple[list[UsageFact], list[list[UsageFact]]]) -> None:
    """Rollups, watermark and number of records added; nothing is taken for a conflict; Reconcile agrees."""
    facts, batches = log

    async def check() -> None:
        async with empty_ledger() as database:
            added = [await post_usage(database, ManualClock(), batch) for batch in batches]
            assert sum(added) == len(facts)
            assert await rollups(database) == sums_of(facts)
            (journal,) = await rows_of(database, JournalRow)
            assert (journal.journal_id, journal.committed_seq) == (JOURNAL, len(facts))
            assert await count_of(database, QuarantineRow) == 0
            for period in {period_of(fact.occur_time) for fact in facts}:
                assert (await reconcile(database, ManualClock(), PROJECT, period)).differences == []

    asyncio.run(check())


@st.composite
def lives(draw: st.DrawFn) -> tuple[Life, list[tuple[str, int]]]:
    """A life, and its facts as they arrive: every one at least once, in any order."""
    begin = ms_from_time(START) + draw(st.integers(0, HOUR_MS - 1))
    length = draw(st.integers(0, 5 * HOUR_MS))
    sightings = draw(st.lists(st.integers(0, length), min_size=1, max_size=5))
    released = draw(st.booleans())
    facts = [("allocated", begin), *(("observed", begin + seen) for seen in sightings)]
    if released:
        facts.append(("released", begin + length))
    repeats = draw(st.lists(st.sampled_from(facts), max_size=5))
    life = Life(INSTANCE, VCPUS, begin, begin + max(sightings), begin + length if released else None)
    return life, draw(st.permutations(facts + repeats))


@on_a_database
@given(lives())
def test_instance_facts_in_any_order_and_repetition_give_one_ledger(told: tuple[Life, list[tuple[str, int]]]) -> None:
    """The same windows, each posted once, the same sums, and a bill for every millisecond that was lived."""
    life, facts = told
    # The last moment of a life may lie five hours ahead.
    clock = ManualClock(START + timedelta(hours=6))

    async def tell(database: Database, action: str, at_ms: int) -> None:
        if action == "allocated":
            await allocate(database, clock, allocate_time=time_from_ms(at_ms))
        elif action == "observed":
            await observe(database, clock, time_from_ms(at_ms))
        else:
            await release(database, clock, time_from_ms(at_ms))

    async def check() -> None:
        async with empty_ledger() as database:
            for action, at_ms in facts:
                await tell(database, action, at_ms)
            closed = [window for window in cut(life) if window.closed]
            posted = sorted(await rows_of(database, WindowRow), key=lambda row: row.start_ms)
            assert [(row.id, row.start_ms, row.end_ms) for row in posted] == [
                (window.id, window.start_ms, window.end_ms) for window in closed
            ]
            assert [quantity for quantity, _ in (await rollups(database)).values()] == (
                [sum(window.core_ms for window in closed)] if closed else []
            )
            bill = await get_bill(database, clock, PROJECT, "")
            assert sum(line.sum.quantity for line in bill.lines) == VCPUS * (life.end_ms - life.allocate_ms)
            assert (await reconcile(database, clock, PROJECT, "")).differences == []

    asyncio.run(check())
