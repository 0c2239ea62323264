"""Consumers and relays while the database is locked or cuts its connections: late, never lost or doubled."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import UTC, datetime

import pytest_asyncio
from sqlalchemy import Column, Integer, MetaData, String, Table, select, text
from sqlalchemy.exc import SQLAlchemyError

from chassis.database import Database, UnitOfWork, chassis_tables
from chassis.events import Event
from chassis.inbox import Consumer
from chassis.outbox import OutboxRelay
from tests.clock import ManualClock
from tests.conftest import DatabaseFactory
from tests.infra.broker import Broker

METADATA = MetaData()
CHASSIS = chassis_tables(METADATA)
EFFECT = Table(
    "effect",
    METADATA,
    Column("row_number", Integer, primary_key=True),
    Column("event_id", String(36), nullable=False),
)
COUNT = 120


@pytest_asyncio.fixture
async def database(make_database: DatabaseFactory, database_url: str) -> Database:
    await make_database(CHASSIS, METADATA)
    return Database(database_url, CHASSIS, busy_timeout_ms=50, pool_timeout_s=5)


async def take_effect(uow: UnitOfWork, event: Event) -> None:
    await uow.session.execute(EFFECT.insert().values(event_id=event.id))


def an_event(sequence: int) -> Event:
    return Event(
        owner="deploy",
        resource="instance",
        action="observed",
        project_uid="p1",
        type="test.Fact",
        data=b"",
        aggregate_uid="i1",
        sequence=sequence,
        time=datetime(2026, 1, 1, tzinfo=UTC),
    )


async def disturb(database: Database, disturbing: asyncio.Event) -> None:
    """Lock a SQLite file against everyone, or cut every connection to PostgreSQL, over and over."""
    while disturbing.is_set():
        if database.is_sqlite:
            await lock_for_a_while(database.url.partition("///")[2])
        else:
            await cut_connections(database)
        await asyncio.sleep(0.1)


async def lock_for_a_while(path: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    try:
        connection.execute("begin immediate")
        await asyncio.sleep(0.2)
        connection.execute("rollback")
    except sqlite3.OperationalError:
        return  # a unit of work has it now; waiting here would stop the loop it runs in
    finally:
        connection.close()


async def cut_connections(database: Database) -> None:
    statement = (
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid()"
    )
    try:
        async with database.reader() as session:
            await session.execute(text(statement))
    except (SQLAlchemyError, OSError):
        return  # its own connection was cut by an earlier round


async def test_everything_takes_effect_once_however_the_database_behaves(nats: Broker, database: Database) -> None:
    """Emit, relay and consume under a database that keeps failing."""
    clock = ManualClock()
    relay = OutboxRelay(database, await nats.bus_as("deploy"), clock, retry_s_max=0.1, claim_s=0)
    consumer = Consumer(
        await nats.bus_as("billing"),
        database,
        clock,
        "DEPLOY",
        "billing-instances",
        take_effect,
        retry_s_max=0.1,
    )
    disturbing = asyncio.Event()
    disturbing.set()
    tasks = [asyncio.create_task(work) for work in (relay.run(), consumer.run(), disturb(database, disturbing))]
    emitted: list[str] = []
    for sequence in range(COUNT):
        event = an_event(sequence)
        await asyncio.sleep(0.01)
        try:
            async with database.unit_of_work() as uow:
                uow.emit(event)
        except (SQLAlchemyError, OSError):
            continue  # told as failed; the client would try again
        emitted.append(event.id)
    disturbing.clear()
    seen: list[str] = []
    async with asyncio.timeout(60):
        while not set(emitted) <= set(seen):
            await asyncio.sleep(0.1)
            async with database.reader() as session:
                seen = list((await session.execute(select(EFFECT.c.event_id))).scalars())
    for task in tasks:
        assert not task.done() or task.exception() is None
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await database.dispose()
    assert len(emitted) > COUNT / 4
    assert len(seen) == len(set(seen))
