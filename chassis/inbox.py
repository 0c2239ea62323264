"""Consumers: an event takes effect once, however often it is delivered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from chassis.bus import Bus, BusUnavailable, PullSubscription
from chassis.clock import Clock
from chassis.database import Database, UnitOfWork
from chassis.errors import Code, Problem
from chassis.events import Event, event_from_message
from chassis.ids import new_uid
from chassis.telemetry import get_logger

log = get_logger(__name__)

EventHandler = Callable[[UnitOfWork, Event], Awaitable[None]]
BatchHandler = Callable[[Sequence[Event]], Awaitable[None]]

# What may pass by itself; anything else in a handler is the message's own fault.
_PASSING = {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.ABORTED}


class Consumer:
    """One transaction a message: inbox row and effect together, then the acknowledgement.

    A message that cannot be decoded or breaks a rule (a `Problem` that does not pass by itself) becomes a dead letter in
    a transaction of its own and is acknowledged. While the database is away the consumer stops pulling; NATS delivers
    again what was not acknowledged.

    Args:
        batch_max: Messages pulled at once; handled one after the other, in stream order.
        retry_s_max: Longest wait while the database or NATS is away.
        keep_s: How long inbox rows are kept; longer than NATS could deliver again.
    """

    def __init__(
        self,
        bus: Bus,
        database: Database,
        clock: Clock,
        stream: str,
        durable: str,
        handler: EventHandler,
        *,
        batch_max: int = 100,
        retry_s_max: float = 5.0,
        keep_s: float = 30 * 86_400,
    ) -> None:
        self._bus = bus
        self._database = database
        self._clock = clock
        self._stream = stream
        self._durable = durable
        self._handler = handler
        self._batch_max = batch_max
        self._retry_s_max = retry_s_max
        self._keep = timedelta(seconds=keep_s)

    async def run(self) -> None:
        """Consume for ever."""
        await _consume(self._bus, self._stream, self._durable, self._batch_max, self._take, self._retry_s_max)

    async def _take(self, messages: Sequence[Msg]) -> None:
        for message in messages:
            await self._take_one(message)
            await message.ack()

    async def _take_one(self, message: Msg) -> None:
        try:
            event = event_from_message(message.subject, message.headers, message.data)
            async with self._database.unit_of_work() as uow:
                if not await self._first_time(uow, event):
                    return
                await self._handler(uow, event)
        except Problem as problem:
            if problem.code in _PASSING:
                raise
            async with self._database.unit_of_work() as uow:
                await bury(uow, self._database, self._clock, self._durable, message, str(problem))

    async def _first_time(self, uow: UnitOfWork, event: Event) -> bool:
        inbox = self._database.tables.inbox
        row = {"consumer": self._durable, "event_id": event.id, "effect_time": self._clock.now()}
        return bool(await self._database.insert_ignoring(uow, inbox, [row], returning=[inbox.c.event_id]))

    async def forget_old(self) -> None:
        """Drop inbox rows older than `keep_s`."""
        inbox = self._database.tables.inbox
        async with self._database.unit_of_work() as uow:
            await uow.session.execute(delete(inbox).where(inbox.c.effect_time < self._clock.now() - self._keep))


class BatchConsumer:
    """Hands over whole batches; the handler dedupes by itself, in a transaction of its own. Acknowledged on return."""

    def __init__(
        self,
        bus: Bus,
        database: Database,
        clock: Clock,
        stream: str,
        durable: str,
        handler: BatchHandler,
        *,
        batch_max: int = 100,
        retry_s_max: float = 5.0,
    ) -> None:
        self._bus = bus
        self._database = database
        self._clock = clock
        self._stream = stream
        self._durable = durable
        self._handler = handler
        self._batch_max = batch_max
        self._retry_s_max = retry_s_max

    async def run(self) -> None:
        """Consume for ever."""
        await _consume(self._bus, self._stream, self._durable, self._batch_max, self._take, self._retry_s_max)

    async def _take(self, messages: Sequence[Msg]) -> None:
        try:
            await self._handler([event_from_message(m.subject, m.headers, m.data) for m in messages])
        except Problem as problem:
            if problem.code in _PASSING:
                raise
            if len(messages) > 1:
                # One bad message must not bury its neighbours: take them one by one.
                for message in messages:
                    await self._take([message])
                return
            async with self._database.unit_of_work() as uow:
                await bury(uow, self._database, self._clock, self._durable, messages[0], str(problem))
        for message in messages:
            await message.ack()


async def _consume(
    bus: Bus,
    stream: str,
    durable: str,
    batch_max: int,
    take: Callable[[Sequence[Msg]], Awaitable[None]],
    retry_s_max: float,
) -> None:
    subscription: PullSubscription | None = None
    retry_s = 0.1
    while True:
        try:
            if subscription is None:
                subscription = await bus.pull(stream, durable)
            messages = await subscription.fetch(batch_max)
            if messages:
                await take(messages)
            retry_s = 0.1
        except (BusUnavailable, NatsError, SQLAlchemyError, OSError, Problem) as error:
            log.warning("consumer waits", consumer=durable, error=str(error), retry_s=retry_s)
            await asyncio.sleep(retry_s)
            retry_s = min(retry_s * 2, retry_s_max)


async def bury(uow: UnitOfWork, database: Database, clock: Clock, consumer: str, message: Msg, why: str) -> None:
    """Keep a message that cannot take effect, with the reason, where `replay_dead_letters` finds it."""
    await uow.session.execute(
        insert(database.tables.dead_letter).values(
            id=new_uid(),
            consumer=consumer,
            subject=message.subject,
            headers=json.dumps(dict(message.headers or {})),
            data=message.data,
            why=why,
            receive_time=clock.now(),
        )
    )
    log.error("message became a dead letter", consumer=consumer, subject=message.subject, why=why)


async def replay_dead_letters(database: Database, clock: Clock, consumer: str, handler: EventHandler) -> int:
    """Hand a consumer's dead letters to its handler again, each in a transaction of its own; return how many took effect.

    Raises:
        Problem: what is still wrong with one of them; those before it stay done.
    """
    dead = database.tables.dead_letter
    waiting = select(dead).where(dead.c.consumer == consumer, dead.c.replay_time.is_(None)).order_by(dead.c.id)
    async with database.reader() as session:
        rows: Sequence[Any] = (await session.execute(waiting)).all()
    for row in rows:
        event = event_from_message(row.subject, json.loads(row.headers), row.data)
        async with database.unit_of_work() as uow:
            await handler(uow, event)
            await uow.session.execute(update(dead).where(dead.c.id == row.id).values(replay_time=clock.now()))
    return len(rows)
