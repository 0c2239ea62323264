"""The relay: what a unit of work emitted reaches JetStream and the buckets, exactly once in effect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from time import monotonic
from typing import Any

from sqlalchemy import Row, delete, or_, select, update

from chassis.bus import Bus, BusUnavailable
from chassis.clock import Clock
from chassis.database import DATABASE_ERRORS, Database
from chassis.telemetry import get_logger
from chassis.telemetry.metrics import meter

log = get_logger(__name__)

_WAITING = meter.create_gauge(
    "modelyard.outbox.depth", unit="{row}", description="Unpublished rows that the last look found, one batch at most."
)
_RETRY_S_MIN = 0.1
_FORGET_EACH_S = 3600.0


class OutboxRelay:
    """Publishes unpublished rows and marks them; two relays at once are safe.

    A row that is published and not marked (a crash in between) is published again with the same
    `Nats-Msg-Id`, which the broker drops for a while and consumers know for long. On PostgreSQL relays take
    different rows (`for update skip locked`) by a claim that expires; on SQLite they may both publish one.

    Order: one relay publishes the rows of an aggregate, or of a bucket's key, in the order they were
    written; different ones go side by side. Two relays keep no order: handlers that need one compare the
    aggregate's sequence.

    Args:
        batch_rows_max: Rows taken at once.
        lanes_max: Aggregates published side by side.
        idle_s: How often to look without a signal; another process may write to the same database.
        retry_s_max: Longest wait between attempts while NATS or the database is away.
        claim_s: How long a relay that died keeps its rows from another one; longer than a batch takes.
        keep_s: How long published rows are kept for inspection.
        answers_keep_s: How long the answers to request ids are kept; a repeat after that is a new request.
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        clock: Clock,
        *,
        batch_rows_max: int = 200,
        lanes_max: int = 64,
        idle_s: float = 5.0,
        retry_s_max: float = 5.0,
        claim_s: float = 15.0,
        keep_s: float = 86_400,
        answers_keep_s: float = 30 * 86_400,
    ) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self._batch_rows_max = batch_rows_max
        self._lanes = asyncio.Semaphore(lanes_max)
        self._idle_s = idle_s
        self._retry_s_max = retry_s_max
        self._claim = timedelta(seconds=claim_s)
        self._keep = timedelta(seconds=keep_s)
        self._answers_keep = timedelta(seconds=answers_keep_s)
        self._forget_at = monotonic()

    async def run(self) -> None:
        """Relay for ever."""
        retry_s = _RETRY_S_MIN
        while True:
            self._database.outbox_signal.clear()
            try:
                while await self.relay_once():
                    retry_s = _RETRY_S_MIN
                await self._forget_old()
            except (BusUnavailable, *DATABASE_ERRORS) as error:
                log.warning("outbox waits", error=str(error), retry_s=retry_s)
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, self._retry_s_max)
                continue
            try:
                async with asyncio.timeout(self._idle_s):
                    await self._database.outbox_signal.wait()
            except TimeoutError:
                continue

    async def relay_once(self) -> int:
        """Publish one batch; return how many rows it held.

        Raises:
            BusUnavailable: NATS did not take all of it; what it took is marked, the rest stays.
        """
        rows = await self._take_rows()
        # A full batch may have more behind it; what matters is whether rows pile up.
        _WAITING.set(len(rows))
        if not rows:
            return 0
        taken: list[str] = []
        try:
            await self._publish(rows, taken)
        finally:
            await self._settle(rows, taken)
        return len(rows)

    async def _take_rows(self) -> list[Row[Any]]:
        """The oldest unpublished rows nobody else works on, in the order they were written."""
        outbox = self._database.tables.outbox
        unpublished = (
            select(outbox)
            .where(outbox.c.publish_time.is_(None))
            .order_by(outbox.c.row_number)
            .limit(self._batch_rows_max)
        )
        if self._database.is_sqlite:
            async with self._database.reader() as session:
                return list((await session.execute(unpublished)).all())
        now = self._clock.now()
        free = unpublished.where(
            or_(outbox.c.claim_expire_time.is_(None), outbox.c.claim_expire_time <= now)
        ).with_for_update(skip_locked=True)
        # The network is awaited after this transaction, so a claim holds the rows instead of a lock.
        async with self._database.unit_of_work() as uow:
            rows = list((await uow.session.execute(free)).all())
            if rows:
                await uow.session.execute(
                    update(outbox)
                    .where(outbox.c.row_number.in_([row.row_number for row in rows]))
                    .values(claim_expire_time=now + self._claim)
                )
        return rows

    async def _publish(self, rows: Sequence[Row[Any]], taken: list[str]) -> None:
        lanes: dict[tuple[str, str], list[Row[Any]]] = {}
        for row in rows:
            lanes.setdefault(_lane(row), []).append(row)
        results = await asyncio.gather(
            *(self._publish_lane(lane, taken) for lane in lanes.values()), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _publish_lane(self, rows: Sequence[Row[Any]], taken: list[str]) -> None:
        async with self._lanes:
            if rows[0].kind == "projection":
                # Only the newest value of a key matters.
                newest = max(rows, key=lambda row: int(row.sequence))
                await self._bus.put_projection(newest.subject, newest.headers, newest.data)
                taken.extend(row.id for row in rows)
                return
            for row in rows:
                await self._bus.publish_raw(row.subject, row.data, json.loads(row.headers))
                taken.append(row.id)

    async def _settle(self, rows: Sequence[Row[Any]], taken: Sequence[str]) -> None:
        """Mark what was taken; free the rest for the next attempt."""
        outbox = self._database.tables.outbox
        async with self._database.unit_of_work() as uow:
            await uow.session.execute(
                update(outbox).where(outbox.c.id.in_(taken)).values(publish_time=self._clock.now())
            )
            if len(taken) < len(rows) and not self._database.is_sqlite:
                await uow.session.execute(
                    update(outbox)
                    .where(outbox.c.id.in_([row.id for row in rows]), outbox.c.publish_time.is_(None))
                    .values(claim_expire_time=None)
                )

    async def _forget_old(self) -> None:
        if monotonic() >= self._forget_at:
            self._forget_at = monotonic() + _FORGET_EACH_S
            await self.forget_old()

    async def forget_old(self) -> None:
        """Drop published rows older than `keep_s` and answers older than `answers_keep_s`."""
        outbox, request = self._database.tables.outbox, self._database.tables.request
        now = self._clock.now()
        async with self._database.unit_of_work() as uow:
            await uow.session.execute(delete(outbox).where(outbox.c.publish_time < now - self._keep))
            await uow.session.execute(delete(request).where(request.c.answer_time < now - self._answers_keep))
        # Every row was read for that.
        await self._database.release_memory()


def _lane(row: Row[Any]) -> tuple[str, str]:
    """What is published in order: an aggregate's events, a key's values."""
    if row.kind == "projection":
        return row.subject, row.headers
    return "", json.loads(row.headers)["ce-subject"]
