"""Consumers: an event takes effect once, however often it is delivered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from time import monotonic

from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from nats.errors import MsgAlreadyAckdError
from opentelemetry.trace import SpanKind
from sqlalchemy import delete

from chassis.bus import NATS_ERRORS, Bus, BusUnavailable
from chassis.clock import Clock
from chassis.database import DATABASE_ERRORS, Database, UnitOfWork, is_mistake
from chassis.errors import PASSING, Problem
from chassis.events import Event, EventMalformed, event_from_message
from chassis.ids import derived_uid
from chassis.telemetry import get_logger, span
from chassis.telemetry.metrics import meter

log = get_logger(__name__)

EventHandler = Callable[[UnitOfWork, Event], Awaitable[None]]
BatchHandler = Callable[[Sequence[Event]], Awaitable[None]]

_LAG = meter.create_gauge(
    "modelyard.consumer.lag", unit="{message}", description="Messages of the stream that wait behind the last pull."
)
_RETRY_S_MIN = 0.1
_FORGET_EACH_S = 3600.0


class _Away(Exception):
    """Something the handler needs is away: stop pulling for a while."""


class _PullLoop:
    """Pulls for ever and tells apart what passes, what is wrong with a message, and what is our mistake.

    Args:
        batch_max: Messages pulled at once.
        retry_s_max: Longest wait while the database, a dependency or NATS is away.
        mistake_retry_s_max: Longest wait before a message comes again whose handler failed unexpectedly.
    """

    def __init__(
        self,
        bus: Bus,
        database: Database,
        clock: Clock,
        stream: str,
        durable: str,
        *,
        batch_max: int,
        retry_s_max: float,
        mistake_retry_s_max: float,
    ) -> None:
        self._bus = bus
        self._database = database
        self._clock = clock
        self._stream = stream
        self._durable = durable
        self._batch_max = batch_max
        self._retry_s_max = retry_s_max
        self._mistake_retry_s_max = mistake_retry_s_max

    async def run(self) -> None:
        """Consume for ever."""
        retry_s = _RETRY_S_MIN
        subscription = await self._bus.pull(self._stream, self._durable)
        _LAG.set(0, {"messaging.consumer.group.name": self._durable})
        try:
            while True:
                try:
                    messages = await subscription.fetch(self._batch_max)
                    waiting = messages[-1].metadata.num_pending if messages else 0
                    _LAG.set(waiting or 0, {"messaging.consumer.group.name": self._durable})
                    await self._tidy()
                    if messages:
                        await self._take(messages)
                    retry_s = _RETRY_S_MIN
                except (_Away, Problem, *NATS_ERRORS, *DATABASE_ERRORS) as error:
                    log.warning("consumer waits", consumer=self._durable, error=str(error), retry_s=retry_s)
                    await asyncio.sleep(retry_s)
                    retry_s = min(retry_s * 2, self._retry_s_max)
        finally:
            await subscription.close()

    async def _take(self, messages: Sequence[Msg]) -> None:
        """Handle and acknowledge; raise `_Away` when the rest is to come again."""
        raise NotImplementedError

    async def _tidy(self) -> None:
        """What is to be done now and then."""

    async def _handled(self, work: Awaitable[None], messages: Sequence[Msg]) -> bool:
        """Do the work; return whether it is done, with one message also when that was buried.

        Raises:
            _Away: it may succeed later.
        """
        try:
            await work
        except (Problem, DecodeError) as problem:
            if isinstance(problem, Problem) and problem.code in PASSING:
                raise _Away(str(problem)) from problem
            if len(messages) > 1:
                return False
            await self._bury(messages[0], str(problem))
        except (BusUnavailable, *NATS_ERRORS, *DATABASE_ERRORS) as error:
            if not is_mistake(error):
                raise _Away(str(error) or type(error).__name__) from error
            await self._put_off(messages)
            return False
        except Exception:  # noqa: BLE001 (our mistake, said aloud; one message must not stop the others)
            await self._put_off(messages)
            return False
        return True

    async def _put_off(self, messages: Sequence[Msg]) -> None:
        if len(messages) > 1:
            return
        message = messages[0]
        delivered = message.metadata.num_delivered or 1
        delay_s = min(2.0 ** min(delivered - 1, 20), self._mistake_retry_s_max)
        log.exception(
            "event handler failed",
            consumer=self._durable,
            subject=message.subject,
            delivered=delivered,
            retry_s=delay_s,
        )
        await message.nak(delay=delay_s)

    async def _bury(self, message: Msg, why: str) -> None:
        async with self._database.unit_of_work() as uow:
            await bury(uow, self._database, self._clock, self._durable, message, why)


class Consumer(_PullLoop):
    """One transaction a message: inbox row and effect together, then the acknowledgement.

    A message that cannot be decoded or breaks a rule (a `Problem` that does not pass by itself) becomes a
    dead letter and is acknowledged. While the database is away the consumer stops pulling; NATS delivers
    again what was not acknowledged. Any other error of the handler is logged, and the message comes again
    later, while the others go on.

    Args:
        handler: Takes the unit of work and the event; never awaits the network.
        batch_max: Messages pulled at once; handled one after the other, in the order they come.
        retry_s_max: Longest wait while the database or NATS is away.
        keep_s: How long inbox rows are kept; longer than an outbox row may wait to be published again.
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
        mistake_retry_s_max: float = 60.0,
        keep_s: float = 90 * 86_400,
    ) -> None:
        super().__init__(
            bus,
            database,
            clock,
            stream,
            durable,
            batch_max=batch_max,
            retry_s_max=retry_s_max,
            mistake_retry_s_max=mistake_retry_s_max,
        )
        self._handler = handler
        self._keep = timedelta(seconds=keep_s)
        self._forget_at = monotonic() + _FORGET_EACH_S

    async def _take(self, messages: Sequence[Msg]) -> None:
        for position, message in enumerate(messages):
            try:
                if await self._handled(self._take_one(message), [message]):
                    await message.ack()
            except BaseException:
                await _give_back(messages[position:])
                raise

    async def _take_one(self, message: Msg) -> None:
        event = event_from_message(message)
        destination = {"messaging.system": "nats", "messaging.destination.name": self._durable}
        with span(f"process {self._durable}", destination, kind=SpanKind.CONSUMER, parent=event.traceparent):
            await self._take_effect(event)

    async def _take_effect(self, event: Event) -> None:
        async with self._database.unit_of_work() as uow:
            if await _first_time(uow, self._database, self._clock, self._durable, event.id):
                await self._handler(uow, event)

    async def _tidy(self) -> None:
        if monotonic() >= self._forget_at:
            self._forget_at = monotonic() + _FORGET_EACH_S
            await self.forget_old()

    async def forget_old(self) -> None:
        """Drop inbox rows older than `keep_s`."""
        inbox = self._database.tables.inbox
        async with self._database.unit_of_work() as uow:
            await uow.session.execute(delete(inbox).where(inbox.c.effect_time < self._clock.now() - self._keep))


class BatchConsumer(_PullLoop):
    """Hands over whole batches; the handler dedupes by itself, in a transaction of its own.

    Messages are acknowledged when it returns. When it finds something wrong, its messages are handed over
    one by one, so that a bad one does not bury its neighbours.
    """

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
        mistake_retry_s_max: float = 60.0,
    ) -> None:
        super().__init__(
            bus,
            database,
            clock,
            stream,
            durable,
            batch_max=batch_max,
            retry_s_max=retry_s_max,
            mistake_retry_s_max=mistake_retry_s_max,
        )
        self._handler = handler

    async def _take(self, messages: Sequence[Msg]) -> None:
        left = list(messages)
        try:
            if await self._handled(self._hand_over(messages), messages):
                while left:
                    await left.pop(0).ack()
                return
            if len(messages) == 1:
                return
            while left:
                await self._take([left[0]])
                left.pop(0)
        except BaseException:
            await _give_back(left)
            raise

    async def _hand_over(self, messages: Sequence[Msg]) -> None:
        await self._handler([event_from_message(message) for message in messages])


async def _give_back(messages: Sequence[Msg]) -> None:
    """Let NATS deliver again at once what was not handled; where it is away it does so by itself later."""
    for message in messages:
        try:
            await message.nak()
        except MsgAlreadyAckdError:
            continue
        except NATS_ERRORS as error:
            log.info("message was not given back", subject=message.subject, error=str(error))
            return


async def _first_time(uow: UnitOfWork, database: Database, clock: Clock, consumer: str, event_id: str) -> bool:
    inbox = database.tables.inbox
    row = {"consumer": consumer, "event_id": event_id, "effect_time": clock.now()}
    return bool(await database.insert_ignoring(uow, inbox, [row], returning=[inbox.c.event_id]))


async def bury(uow: UnitOfWork, database: Database, clock: Clock, consumer: str, message: Msg, why: str) -> None:
    """Keep a message that cannot take effect, with the reason, where an operator finds it.

    Burying it again (its acknowledgement was lost) adds nothing.
    """
    try:
        event_id = event_from_message(message).id
        await _first_time(uow, database, clock, consumer, event_id)
    except EventMalformed:
        metadata = message.metadata
        event_id = f"{metadata.stream}:{metadata.sequence.stream}:{metadata.timestamp.isoformat()}"
    dead = database.tables.dead_letter
    row = {
        "id": derived_uid("dead-letter", consumer, event_id),
        "consumer": consumer,
        "subject": message.subject,
        "headers": json.dumps(dict(message.headers or {})),
        "data": message.data,
        "why": why,
        "receive_time": clock.now(),
    }
    if await database.insert_ignoring(uow, dead, [row], returning=[dead.c.id]):
        log.error("message became a dead letter", consumer=consumer, subject=message.subject, why=why)
