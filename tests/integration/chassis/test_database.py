"""Units of work on real databases: rows and outbox commit together or not at all."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
import pytest_asyncio
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, insert, select

from chassis.database import DATABASE_ERRORS, Database, ExactDecimal, UtcTime, chassis_tables, engine, is_mistake
from chassis.errors import DatabaseOrderUnfit
from chassis.events import Event, Projection
from tests.conftest import DatabaseFactory

METADATA = MetaData()
CHASSIS = chassis_tables(METADATA)
NOTE = Table(
    "note",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("count", Integer, nullable=False, default=0),
    Column("price", ExactDecimal, nullable=True),
    Column("at", UtcTime, nullable=True),
    Column("parent", String(36), ForeignKey("note.id"), nullable=True),
)


@pytest_asyncio.fixture
async def database(make_database: DatabaseFactory) -> Database:
    return await make_database(CHASSIS, METADATA)


def an_event(sequence: int = 1) -> Event:
    return Event(
        owner="deploy",
        resource="instance",
        action="allocated",
        project_uid="p1",
        type="test.Fact",
        data=b"fact",
        aggregate_uid="i1",
        sequence=sequence,
        time=datetime(2026, 1, 1, tzinfo=UTC),
    )


async def count_of(database: Database, table: Table) -> int:
    async with database.reader() as session:
        return len((await session.execute(select(table))).all())


async def test_rows_and_outbox_commit_together(database: Database) -> None:
    """What a unit of work writes and emits is there after it, and the relay is woken."""
    async with database.unit_of_work() as uow:
        await uow.session.execute(insert(NOTE).values(id="a"))
        uow.emit(an_event())
        uow.project(Projection("routes", "k", b"value", 7))
        assert not database.outbox_signal.is_set()
    assert await count_of(database, NOTE) == 1
    assert await count_of(database, CHASSIS.outbox) == 2
    assert database.outbox_signal.is_set()


async def test_an_error_rolls_back_rows_and_outbox(database: Database) -> None:
    """Nothing of a unit of work that raised is left."""

    async def fail_half_way() -> None:
        async with database.unit_of_work() as uow:
            await uow.session.execute(insert(NOTE).values(id="a"))
            uow.emit(an_event())
            raise KeyError("on purpose")

    with pytest.raises(KeyError):
        await fail_half_way()
    assert await count_of(database, NOTE) == 0
    assert await count_of(database, CHASSIS.outbox) == 0
    assert not database.outbox_signal.is_set()


async def test_a_cancelled_unit_of_work_leaves_the_next_one_free(database: Database) -> None:
    """Cancelling in the middle rolls back and hands the writer's place on."""
    entered = asyncio.Event()

    async def never_ends() -> None:
        async with database.unit_of_work() as uow:
            await uow.session.execute(insert(NOTE).values(id="a"))
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(never_ends())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.unit_of_work() as uow:
        await uow.session.execute(insert(NOTE).values(id="a"))
    assert await count_of(database, NOTE) == 1


async def test_concurrent_decisions_do_not_lose_an_update(database: Database) -> None:
    """Twenty read-then-write increments at once add up, since what they read is locked."""
    async with database.unit_of_work() as uow:
        await uow.session.execute(insert(NOTE).values(id="a", count=0))

    async def increment() -> None:
        async with database.unit_of_work() as uow:
            locked = database.locking(select(NOTE.c.count).where(NOTE.c.id == "a"))
            count = (await uow.session.execute(locked)).scalar_one()
            await asyncio.sleep(0)
            await uow.session.execute(NOTE.update().values(count=count + 1))

    await asyncio.gather(*(increment() for _ in range(20)))
    async with database.reader() as session:
        assert (await session.execute(select(NOTE.c.count))).scalar_one() == 20


async def test_two_pools_on_one_file_wait_for_each_other(make_database: DatabaseFactory) -> None:
    """A second process (here: a second pool) waits for the write lock instead of failing."""
    first = await make_database(CHASSIS, METADATA)
    second = await make_database(CHASSIS, METADATA)

    async def write(database: Database, row_id: str) -> None:
        async with database.unit_of_work() as uow:
            await uow.session.execute(insert(NOTE).values(id=row_id))
            await asyncio.sleep(0.01)

    await asyncio.gather(*(write(database, f"{n}-{i}") for n, database in enumerate((first, second)) for i in range(5)))
    assert await count_of(first, NOTE) == 10


async def test_a_reader_cannot_write(database: Database) -> None:
    """Writing belongs into a unit of work."""
    async with database.reader() as session:
        with pytest.raises(DATABASE_ERRORS):
            await session.execute(insert(NOTE).values(id="a"))


async def test_readers_go_on_while_one_writes(database: Database) -> None:
    """A reader neither waits for an open unit of work nor sees into it."""
    async with database.unit_of_work() as uow:
        await uow.session.execute(insert(NOTE).values(id="a"))
        async with asyncio.timeout(5):
            assert await count_of(database, NOTE) == 0


async def test_foreign_keys_are_enforced(database: Database) -> None:
    """A row cannot point at nothing."""
    with pytest.raises(DATABASE_ERRORS):
        async with database.unit_of_work() as uow:
            await uow.session.execute(insert(NOTE).values(id="a", parent="nowhere"))


async def test_insert_ignoring_returns_only_new_rows(database: Database) -> None:
    """Rows that were there, and twins within one call, are not given back."""
    old = [{"id": f"{i:05d}"} for i in range(0, 3000, 2)]
    every = [{"id": f"{i:05d}"} for i in range(3000)]
    async with database.unit_of_work() as uow:
        await database.insert_ignoring(uow, NOTE, old, returning=[NOTE.c.id])
    async with database.unit_of_work() as uow:
        added = await database.insert_ignoring(uow, NOTE, [*every, *every], returning=[NOTE.c.id])
    assert sorted(row.id for row in added) == [f"{i:05d}" for i in range(1, 3000, 2)]
    async with database.unit_of_work() as uow:
        assert await database.insert_ignoring(uow, NOTE, [], returning=[NOTE.c.id]) == []


async def test_times_and_decimals_keep_their_value(database: Database) -> None:
    """Microseconds, any zone and all digits survive both databases."""
    at = datetime(2026, 2, 3, 4, 5, 6, 789_012, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    price = Decimal("0.0375000000000000000000000000001")
    async with database.unit_of_work() as uow:
        await uow.session.execute(insert(NOTE).values(id="a", at=at, price=price))
    async with database.reader() as session:
        row = (await session.execute(select(NOTE))).one()
    assert row.at == at
    assert row.at.tzinfo is UTC
    assert str(row.price) == str(price)


async def test_a_time_without_zone_is_refused(database: Database) -> None:
    """A naive time could mean anything."""
    with pytest.raises((ValueError, *DATABASE_ERRORS)):
        async with database.unit_of_work() as uow:
            await uow.session.execute(insert(NOTE).values(id="a", at=datetime(2026, 1, 1)))  # noqa: DTZ001


async def test_a_unit_of_work_inside_another_is_refused_on_sqlite(database: Database) -> None:
    """It would wait for itself for ever."""
    if not database.is_sqlite:
        return
    async with database.unit_of_work():
        with pytest.raises(RuntimeError, match="inside another"):
            async with database.unit_of_work():
                pass


@pytest.mark.parametrize(
    "values",
    [{"id": "a", "count": None}, {"id": "a", "count": 0, "parent": "nobody"}],
    ids=["null", "foreign key"],
)
async def test_a_wrong_statement_is_not_taken_for_an_absence(database: Database, values: dict[str, object]) -> None:
    """A repeat will not help, so nobody waits for the database to come back."""
    with pytest.raises(DATABASE_ERRORS) as refused:
        async with database.unit_of_work() as uow:
            await uow.session.execute(insert(NOTE).values(**values))
    assert is_mistake(refused.value)


async def test_a_text_that_postgresql_cannot_store_is_a_mistake(database: Database) -> None:
    """A NUL character; SQLite takes it."""
    statement = insert(NOTE).values(id="a\x00b")
    if database.is_sqlite:
        async with database.unit_of_work() as uow:
            await uow.session.execute(statement)
        assert await count_of(database, NOTE) == 1
        return
    with pytest.raises(DATABASE_ERRORS) as refused:
        async with database.unit_of_work() as uow:
            await uow.session.execute(statement)
    assert is_mistake(refused.value)


async def test_a_database_that_orders_texts_by_a_language_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There ranges of names would leave rows out. No locale but C is sure to be installed, so what is asked is turned
    round instead."""
    await database.check_order()
    monkeypatch.setattr(engine, "_FIRST", "a")
    monkeypatch.setattr(engine, "_SECOND", "B")
    with pytest.raises(DatabaseOrderUnfit, match="orders texts by a language"):
        await database.check_order()


async def test_memory_is_given_back_between_two_units_of_work(database: Database) -> None:
    """It waits its turn like any writer, and loses nothing."""

    async def write(name: str) -> None:
        async with database.unit_of_work() as uow:
            await uow.session.execute(insert(NOTE).values(id=name))
            await asyncio.sleep(0)

    await asyncio.gather(write("a"), database.release_memory(), write("b"), database.release_memory())
    assert await count_of(database, NOTE) == 2
