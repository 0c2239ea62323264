"""Sends settled entries to billing until billing says that it has committed them."""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic

from modelyard.type.v1 import access_pb2, usage_pb2
from opentelemetry.trace import SpanKind

from chassis.bus import Bus, BusUnavailable
from chassis.clock import Clock
from chassis.events import published_event
from chassis.telemetry import get_logger, span
from services.inference.journal.journal import Journal

log = get_logger(__name__)

# Links of one span; a batch may hold more calls than that.
LINKS_MAX = 128


class Publisher:
    """An acknowledgement by NATS only stops resending for a while; the watermark is what the journal forgets by.

    Args:
        batch_records_max: Records in one message.
        gather_s: How long to wait for more records before a message goes out.
        resend_s: After this long without a commit a record is sent again; a repeat is free.
    """

    WATERMARKS = "watermarks"

    def __init__(
        self,
        journal: Journal,
        bus: Bus,
        clock: Clock,
        *,
        batch_records_max: int = 500,
        gather_s: float = 0.25,
        resend_s: float = 60.0,
    ) -> None:
        self._journal = journal
        self._bus = bus
        self._clock = clock
        self._batch_records_max = batch_records_max
        self._gather_s = gather_s
        self._resend_s = resend_s
        # When NATS took each record, oldest first; those that billing committed meanwhile are passed over.
        self._sent: deque[tuple[float, int]] = deque()
        self.watch = bus.watch_bucket(self.WATERMARKS, self._watermark)

    async def run(self) -> None:
        """Publish for ever."""
        retry_s = 0.1
        while True:
            self._journal.settled_signal.clear()
            try:
                while await self._publish_once():
                    pass
                retry_s = 0.1
            except BusUnavailable as away:
                log.warning("usage waits in the journal", error=str(away), entries=len(self._journal.settled))
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, 5.0)
                continue
            try:
                async with asyncio.timeout(min(self._resend_s, 5.0)):
                    await self._journal.settled_signal.wait()
                await asyncio.sleep(self._gather_s)
            except TimeoutError:
                continue

    async def _publish_once(self) -> int:
        """One message of what is due; how many records it held."""
        due = self._take_due()
        if not due:
            return 0
        batch = usage_pb2.UsageBatch(records=[self._journal.settled[seq] for seq in due])
        links = [record.traceparent for record in batch.records if record.traceparent][:LINKS_MAX]
        with span("send usage", {"modelyard.usage.records": len(due)}, kind=SpanKind.PRODUCER, links=links):
            await self._publish(due, batch)
        return len(due)

    async def _publish(self, due: list[int], batch: usage_pb2.UsageBatch) -> None:
        event = published_event(
            "inference",
            "usage",
            "recorded",
            batch,
            project_uid=None,
            aggregate_uid=self._journal.journal_id,
            sequence=due[0],
            time=self._clock.now(),
        )
        try:
            await self._bus.publish(event)
        except BaseException:
            self._journal.unsent.extendleft(reversed(due))
            raise
        self._sent.extend((monotonic(), seq) for seq in due)

    def _take_due(self) -> list[int]:
        """What was never sent, then what was sent too long ago; each step costs the same however much is waiting."""
        due: list[int] = []
        too_old = monotonic() - self._resend_s
        while len(due) < self._batch_records_max:
            if self._journal.unsent:
                seq = self._journal.unsent.popleft()
            elif self._sent and self._sent[0][0] <= too_old:
                _, seq = self._sent.popleft()
            else:
                break
            if seq in self._journal.settled:
                due.append(seq)
        return due

    def _watermark(self, key: str, value: bytes | None, _sequence: int) -> None:
        if key != self._journal.journal_id or value is None:
            return
        self._journal.forget_committed(access_pb2.JournalWatermark.FromString(value).committed_seq)
