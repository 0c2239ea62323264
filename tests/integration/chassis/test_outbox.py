"""From the outbox to a real broker: everything once and in order, whatever dies in between."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio
from modelyard.deploy.v1.deploy_pb2 import CreateProjectRequest, Project
from sqlalchemy import select

from chassis.bus import Bus, BusUnavailable
from chassis.database import Database
from chassis.events import Projection, decode_projection
from chassis.outbox import OutboxRelay
from chassis.rpc.idempotency import answered_before, remember_answer
from tests.clock import ManualClock
from tests.conftest import DatabaseFactory
from tests.infra.broker import Broker
from tests.integration.chassis.flow import (
    CHASSIS,
    METADATA,
    STREAM,
    an_event,
    emit,
    eventually,
    messages_in,
    running,
    unpublished,
)


@pytest_asyncio.fixture
async def database(make_database: DatabaseFactory) -> Database:
    return await make_database(CHASSIS, METADATA)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def test_relay_publishes_what_was_emitted(nats: Broker, database: Database, clock: ManualClock) -> None:
    """A committed event wakes the relay at once and arrives as it was."""
    event = an_event()
    async with running(OutboxRelay(database, await nats.bus_as("deploy"), clock, idle_s=60)):
        await asyncio.sleep(0)
        await emit(database, event)

        async def arrived() -> bool:
            return await messages_in(nats) == 1 and await unpublished(database) == 0

        await eventually(arrived, timeout_s=5)
    tester = await nats.tester()
    async for _, received in tester.subscribe_stream(STREAM, "modelyard.deploy.v1.>", 1):
        assert received == event
        break


async def test_crash_between_publish_and_mark_publishes_once(
    nats: Broker, database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay that dies after the broker took a batch leaves no twin when its successor publishes again."""
    await emit(database, *(an_event(sequence) for sequence in range(1, 21)))
    first = OutboxRelay(database, await nats.bus_as("deploy"), clock)

    async def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(first, "_settle", die)
        with pytest.raises(KeyboardInterrupt):
            await first.relay_once()
    assert await messages_in(nats) == 20
    assert await unpublished(database) == 20

    clock.advance(3600)  # the dead relay's claim expires
    second = OutboxRelay(database, await nats.bus_as("deploy"), clock)
    while await second.relay_once():
        pass
    assert await messages_in(nats) == 20
    assert await unpublished(database) == 0


async def test_two_relays_at_once_publish_once(
    nats: Broker, make_database: DatabaseFactory, clock: ManualClock
) -> None:
    """Two processes that relay one database neither double nor lose."""
    one, two = await make_database(CHASSIS, METADATA), await make_database(CHASSIS, METADATA)
    await emit(one, *(an_event(sequence, aggregate=f"i{sequence % 7}") for sequence in range(300)))
    relays = [
        OutboxRelay(database, await nats.bus_as("deploy"), clock, batch_rows_max=20, idle_s=0.05)
        for database in (one, two)
    ]

    async def done() -> bool:
        return await unpublished(one) == 0

    async with running(*relays):
        await eventually(done)
    assert await messages_in(nats) == 300


async def test_one_relay_keeps_the_order_of_an_aggregate(nats: Broker, database: Database, clock: ManualClock) -> None:
    """Events of one aggregate arrive as they were written, also across batches."""
    await emit(database, *(an_event(sequence, aggregate=f"i{sequence % 3}") for sequence in range(90)))
    relay = OutboxRelay(database, await nats.bus_as("deploy"), clock, batch_rows_max=25)
    while await relay.relay_once():
        pass
    seen: dict[str, list[int]] = {}
    tester = await nats.tester()
    async for _, event in tester.subscribe_stream(STREAM, "modelyard.deploy.v1.>", 1):
        seen.setdefault(event.aggregate_uid, []).append(event.sequence)
        if sum(map(len, seen.values())) == 90:
            break
    assert all(sequences == sorted(sequences) for sequences in seen.values())


async def test_an_older_projection_never_replaces_a_newer_one(
    nats: Broker, database: Database, clock: ManualClock
) -> None:
    """The bucket keeps the highest sequence, in whatever order values are relayed."""
    relay = OutboxRelay(database, await nats.bus_as("deploy"), clock)
    for sequence, value in ((5, b"five"), (3, b"three"), (5, b"other five"), (6, b"")):
        async with database.unit_of_work() as uow:
            uow.project(Projection("routes", "e1", value, sequence))
        await relay.relay_once()
        tester = await nats.tester()
        stored = await tester.jetstream.get_last_msg("KV_routes", "$KV.routes.e1", direct=True)
        expected = (6, b"") if sequence == 6 else (5, b"five")
        assert decode_projection(stored.data or b"") == expected
    assert await unpublished(database) == 0


async def test_two_writers_of_one_key_leave_the_newest(nats: Broker) -> None:
    """Compare-and-set: of many concurrent writes the highest sequence stays."""
    buses = [await nats.bus_as("deploy") for _ in range(4)]
    framed = Projection("routes", "e1", b"v", 0)
    await asyncio.gather(
        *(
            buses[sequence % 4].put_projection("routes", framed.key, sequence.to_bytes(8, "big") + b"v")
            for sequence in range(40)
        )
    )
    stored = await (await nats.tester()).jetstream.get_last_msg("KV_routes", "$KV.routes.e1", direct=True)
    assert decode_projection(stored.data or b"") == (39, b"v")


async def test_broker_away_then_back(own_nats: Broker, database: Database, clock: ManualClock) -> None:
    """What is emitted while the broker is dead arrives once when it is back."""
    bus = await Bus.connect(own_nats.url, own_nats.credentials["deploy"], "deploy", ack_timeout_s=0.5)
    own_nats.server.kill()
    async with running(OutboxRelay(database, bus, clock, retry_s_max=0.2)):
        await emit(database, *(an_event(sequence) for sequence in range(50)))
        with pytest.raises(BusUnavailable):
            await bus.publish(an_event(99))
        await own_nats.server.start()

        async def done() -> bool:
            return await unpublished(database) == 0

        await eventually(done)
    await bus.close()
    # The one published by hand may have been sent on reconnect; no other is there.
    assert await messages_in(own_nats) in {50, 51}


async def test_published_rows_are_forgotten_after_their_time(
    nats: Broker, database: Database, clock: ManualClock
) -> None:
    """The outbox does not grow for ever; unpublished rows stay however old they are."""
    await emit(database, an_event())
    bus = await nats.bus_as("deploy")
    await OutboxRelay(database, bus, clock).relay_once()
    clock.advance(2 * 86_400)
    async with running(OutboxRelay(database, bus, clock, keep_s=86_400)):

        async def gone() -> bool:
            async with database.reader() as session:
                return not (await session.execute(select(CHASSIS.outbox.c.id))).all()

        await eventually(gone)


async def test_old_answers_and_published_rows_are_forgotten(
    nats: Broker, database: Database, clock: ManualClock
) -> None:
    """Published rows go after a day, answers to request ids after a month; what is unpublished never goes."""
    relay = OutboxRelay(database, await nats.bus_as("deploy"), clock)
    await emit(database, an_event(1))
    await relay.relay_once()
    await emit(database, an_event(2))
    request, answer = CreateProjectRequest(request_id="r1"), Project(name="projects/shop")
    async with database.unit_of_work() as uow:
        await remember_answer(uow, database, clock, "ann", request, answer)

    clock.advance(2 * 86_400)
    await relay.forget_old()
    async with database.unit_of_work() as uow:
        assert await answered_before(uow, database, "ann", request, Project) == answer
        assert (await uow.session.execute(select(CHASSIS.outbox.c.sequence))).scalars().all() == [2]

    clock.advance(30 * 86_400)
    await relay.forget_old()
    async with database.unit_of_work() as uow:
        assert await answered_before(uow, database, "ann", request, Project) is None
    assert await unpublished(database) == 1
