"""The relay: what a unit of work emitted reaches JetStream and the buckets, exactly once in effect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, delete, select, update

from chassis.bus import Bus, BusUnavailable
from chassis.clock import Clock
from chassis.database import Database
from chassis.telemetry import get_logger

log = get_logger(__name__)


class OutboxRelay:
    """Publishes unpublished rows and marks them; two relays at once are safe.

    A row that is published and not marked (a crash in between) is published again with the same `Nats-Msg-Id`, and
    consumers know its id. Rows of one relay go out in the order they were written; a later row never overtakes within
    a batch of the same subject.

    Args:
        batch_rows_max: Rows taken at once.
        idle_s: How often to look without a signal (another process may write to the same database).
        retry_s_max: Longest wait between attempts while NATS is away.
        keep_s: How long published rows are kept for inspection.
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        clock: Clock,
        *,
        batch_rows_max: int = 200,
        idle_s: float = 5.0,
        retry_s_max: float = 5.0,
        keep_s: float = 7 * 86_400,
    ) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self._batch_rows_max = batch_rows_max
        self._idle_s = idle_s
        self._retry_s_max = retry_s_max
        self._keep = timedelta(seconds=keep_s)

    async def run(self) -> None:
        """Relay for ever."""
        retry_s = 0.1
        while True:
            self._database.outbox_signal.clear()
            try:
                while await self.relay_once():
                    pass
                retry_s = 0.1
            except BusUnavailable as away:
                log.warning("outbox waits for nats", error=str(away), retry_s=retry_s)
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, self._retry_s_max)
                continue
            await self._wait_for_more()

    async def _wait_for_more(self) -> None:
        try:
            async with asyncio.timeout(self._idle_s):
                await self._database.outbox_signal.wait()
        except TimeoutError:
            await self._forget_old()

    async def relay_once(self) -> int:
        """Publish one batch; return how many rows it held.

        PostgreSQL keeps the rows locked while they are published, so another relay skips them; on SQLite, which has
        one writer, rows are read first and marked afterwards. Either way a repeat is harmless.

        Raises:
            BusUnavailable: NATS did not take it; nothing is marked that was not taken.
        """
        outbox = self._database.tables.outbox
        unpublished = (
            select(outbox)
            .where(outbox.c.publish_time.is_(None))
            .order_by(outbox.c.row_number)
            .limit(self._batch_rows_max)
        )
        async with self._database.reader() as session:
            rows = (await session.execute(unpublished)).all()
        if not rows:
            return 0
        taken = await self._publish(rows)
        async with self._database.unit_of_work() as uow:
            await uow.session.execute(
                update(outbox).where(outbox.c.id.in_(taken)).values(publish_time=self._clock.now())
            )
        return len(rows)

    async def _publish(self, rows: Sequence[Row[Any]]) -> list[str]:
        """Rows of one subject or key in order, different subjects side by side."""
        lanes: dict[tuple[str, str], list[Row[Any]]] = {}
        for row in rows:
            lane = (row.subject, row.headers) if row.kind == "projection" else (row.subject, "")
            lanes.setdefault(lane, []).append(row)
        taken: list[str] = []

        async def publish_lane(lane: list[Row[Any]]) -> None:
            if lane[0].kind == "projection":
                # Only the newest value of a key matters.
                await self._bus.put_projection(lane[-1].subject, lane[-1].headers, lane[-1].data)
                taken.extend(row.id for row in lane)
                return
            for row in lane:
                await self._bus.publish_raw(row.subject, row.data, json.loads(row.headers))
                taken.append(row.id)

        results = await asyncio.gather(*map(publish_lane, lanes.values()), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures and not taken:
            raise failures[0]
        return taken

    async def _forget_old(self) -> None:
        outbox = self._database.tables.outbox
        async with self._database.unit_of_work() as uow:
            await uow.session.execute(
                delete(outbox).where(outbox.c.publish_time < self._clock.now() - self._keep)
            )
