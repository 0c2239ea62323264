"""Usage on its way to billing, on a real broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from modelyard.type.v1 import access_pb2, usage_pb2

from chassis.bus import Bus
from chassis.clock import SystemClock
from chassis.events import encode_projection, event_from_message
from services.inference.journal.journal import Journal
from services.inference.journal.publisher import Publisher
from tests.infra.broker import Broker
from tests.integration.inference.build import running_journal, settle_calls, until

NEVER_S = 1000.0


class Billing:
    """Takes batches as billing's consumer does, and tells how far it is."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.batches: list[list[usage_pb2.UsageRecord]] = []

    @property
    def seqs(self) -> list[int]:
        return [record.journal_seq for batch in self.batches for record in batch]

    async def run(self) -> None:
        bus = await self._broker.bus_as("billing")
        usage = await bus.pull("USAGE", "billing-usage", wait_s=0.5)
        while True:
            for message in await usage.fetch(10):
                event = event_from_message(message)
                self.batches.append(list(usage_pb2.UsageBatch.FromString(event.data).records))
                await message.ack()

    async def committed(self, journal: Journal, seq: int) -> None:
        bus = await self._broker.bus_as("billing")
        value = access_pb2.JournalWatermark(journal_id=journal.journal_id, committed_seq=seq).SerializeToString()
        await bus.put_projection("watermarks", journal.journal_id, encode_projection(seq, value))


@contextlib.asynccontextmanager
async def running(*work: object) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one) for one in work]  # type: ignore[arg-type]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


def a_publisher(journal: Journal, bus: Bus, resend_s: float = NEVER_S) -> Publisher:
    return Publisher(journal, bus, SystemClock(), resend_s=resend_s)


async def test_every_record_is_sent_once_in_batches(nats: Broker, tmp_path: Path) -> None:
    billing = Billing(nats)
    async with running_journal(tmp_path) as journal:
        publisher = a_publisher(journal, await nats.bus_as("inference"))
        await settle_calls(journal, 1200)
        async with running(publisher.run(), billing.run()):
            await until(lambda: len(billing.seqs) >= 1200)
            await settle_calls(journal, 5)
            await until(lambda: len(billing.seqs) >= 1205)
    assert sorted(billing.seqs) == list(range(1, 1206))
    assert [len(batch) for batch in billing.batches[:3]] == [500, 500, 200]


async def test_an_acknowledgement_by_the_broker_does_not_end_the_sending(nats: Broker, tmp_path: Path) -> None:
    """Only billing's watermark does: the broker may have lost what it took."""
    billing = Billing(nats)
    async with running_journal(tmp_path) as journal:
        publisher = a_publisher(journal, await nats.bus_as("inference"), resend_s=0.05)
        await settle_calls(journal, 3)
        async with running(publisher.run(), publisher.watch.run(), billing.run()):
            await until(lambda: len(billing.batches) >= 3)
            assert billing.batches[0] == billing.batches[1]
            await billing.committed(journal, 2)
            await until(lambda: [record.journal_seq for record in billing.batches[-1]] == [3])
            await billing.committed(journal, 3)
            await until(lambda: not journal.settled)
            sent = len(billing.batches)
            await settle_calls(journal, 1)
            await until(lambda: 4 in billing.seqs)
    assert all(seq == 4 for batch in billing.batches[sent + 1 :] for seq in [record.journal_seq for record in batch])


async def test_a_watermark_of_another_journal_is_none_of_ours(nats: Broker, tmp_path: Path) -> None:
    async with running_journal(tmp_path / "a") as journal, running_journal(tmp_path / "b") as other:
        publisher = a_publisher(journal, await nats.bus_as("inference"))
        await settle_calls(journal, 2)
        async with running(publisher.watch.run()):
            await Billing(nats).committed(other, 2)
            await Billing(nats).committed(journal, 1)
            await until(lambda: journal.committed_seq)
            assert (journal.committed_seq, list(journal.settled)) == (1, [2])


async def test_usage_waits_for_a_broker_that_is_away(own_nats: Broker, tmp_path: Path) -> None:
    """Killed and back: what was settled meanwhile arrives, and calls never noticed."""
    billing = Billing(own_nats)
    async with running_journal(tmp_path) as journal:
        bus = await own_nats.bus_as("inference")
        async with running(a_publisher(journal, bus, resend_s=1.0).run(), billing.run()):
            await settle_calls(journal, 2)
            await until(lambda: len(billing.seqs) == 2)
            own_nats.server.kill()
            await until(lambda: not bus.connected)
            await settle_calls(journal, 3)
            await own_nats.server.start()
            await until(lambda: {1, 2, 3, 4, 5} <= set(billing.seqs), timeout_s=30)


async def test_a_batch_that_was_not_taken_is_sent_again_first(
    nats: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled while it waits for the broker, it stays due."""
    billing = Billing(nats)
    async with running_journal(tmp_path) as journal:
        bus = await nats.bus_as("inference")
        publisher = a_publisher(journal, bus)
        await settle_calls(journal, 3)
        with monkeypatch.context() as patch:
            reached = asyncio.Event()

            async def held(_: object) -> None:
                reached.set()
                await asyncio.Event().wait()

            patch.setattr(bus, "publish", held)
            async with running(publisher.run()):
                await reached.wait()
        async with running(publisher.run(), billing.run()):
            await until(lambda: billing.seqs == [1, 2, 3])
