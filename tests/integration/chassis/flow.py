"""What tests of the outbox and the inbox share: events, an effect to see, and what is in the broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

from sqlalchemy import Column, Integer, MetaData, String, Table, select

from chassis.database import Database, UnitOfWork, chassis_tables
from chassis.errors import Code, Problem
from chassis.events import Event
from chassis.inbox import BatchConsumer, Consumer
from chassis.outbox import OutboxRelay
from tests.infra.broker import Broker

METADATA = MetaData()
CHASSIS = chassis_tables(METADATA)
EFFECT = Table(
    "effect",
    METADATA,
    Column("row_number", Integer, primary_key=True),
    Column("event_id", String(36), nullable=False),
    Column("sequence", Integer, nullable=False),
)
PROJECT = "0190aaaa-0000-7000-8000-000000000001"
STREAM = "DEPLOY"
DURABLE = "billing-instances"


class RuleBroken(Problem):
    """What a handler says of a message it can never take."""

    code = Code.INVALID_ARGUMENT


def an_event(sequence: int = 1, aggregate: str = "i1", data: bytes = b"fact") -> Event:
    return Event(
        owner="deploy",
        resource="instance",
        action="allocated",
        project_uid=PROJECT,
        type="test.Fact",
        data=data,
        aggregate_uid=aggregate,
        sequence=sequence,
        time=datetime(2026, 1, 1, tzinfo=UTC),
    )


async def eventually(condition: Callable[[], Awaitable[bool]], timeout_s: float = 20.0) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110 (the condition is in another process)
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(*loops: OutboxRelay | Consumer | BatchConsumer) -> AsyncIterator[None]:
    """Relays and consumers at work inside the block; one that ends by itself fails the test."""
    tasks = [asyncio.create_task(loop.run()) for loop in loops]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def emit(database: Database, *events: Event) -> None:
    async with database.unit_of_work() as uow:
        for event in events:
            uow.emit(event)


async def messages_in(broker: Broker, stream: str = STREAM) -> int:
    tester = await broker.tester()
    return (await tester.jetstream.stream_info(stream)).state.messages


async def unacknowledged(broker: Broker) -> int:
    tester = await broker.tester()
    info = await tester.jetstream.consumer_info(STREAM, DURABLE)
    return (info.num_ack_pending or 0) + (info.num_pending or 0)


async def unpublished(database: Database) -> int:
    async with database.reader() as session:
        rows = await session.execute(select(CHASSIS.outbox.c.id).where(CHASSIS.outbox.c.publish_time.is_(None)))
        return len(rows.all())


async def effects(database: Database) -> list[tuple[str, int]]:
    async with database.reader() as session:
        rows = await session.execute(select(EFFECT.c.event_id, EFFECT.c.sequence).order_by(EFFECT.c.row_number))
        return [(row.event_id, row.sequence) for row in rows]


async def take_effect(uow: UnitOfWork, event: Event) -> None:
    await uow.session.execute(EFFECT.insert().values(event_id=event.id, sequence=event.sequence))
