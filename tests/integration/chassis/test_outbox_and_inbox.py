"""From one database through a real broker into another: everything once, whatever dies in between."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import pytest
import pytest_asyncio
from modelyard.deploy.v1.deploy_pb2 import CreateProjectRequest, Project
from sqlalchemy import Column, Integer, MetaData, String, Table, select, update

from chassis.bus import Bus, BusUnavailable, StreamFull
from chassis.database import Database, UnitOfWork, chassis_tables
from chassis.dead_letters import DeadLetterNotFound, Handlers, replay_dead_letters
from chassis.errors import Code, DependencyUnavailable, Problem
from chassis.events import Event, Projection, decode_projection
from chassis.ids import new_uid
from chassis.inbox import BatchConsumer, Consumer
from chassis.outbox import OutboxRelay
from chassis.rpc.idempotency import answered_before, remember_answer
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


@pytest_asyncio.fixture
async def database(make_database: DatabaseFactory) -> Database:
    return await make_database(CHASSIS, METADATA)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


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


# The relay


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


# The inbox


async def consumer(nats: Broker, database: Database, clock: ManualClock, handler: object) -> Consumer:
    bus = await nats.bus_as("billing")
    return Consumer(bus, database, clock, STREAM, DURABLE, handler, retry_s_max=0.2)  # type: ignore[arg-type]


async def publish(nats: Broker, *events: Event) -> None:
    bus = await nats.bus_as("deploy")
    for event in events:
        await bus.publish(event)


async def test_one_effect_where_the_consumer_dies_before_its_acknowledgement(
    nats: Broker, database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inbox row knows the event when it is delivered again."""
    event = an_event()
    await publish(nats, event)
    bus = await nats.bus_as("billing")
    dying = await consumer(nats, database, clock, take_effect)
    pull = await bus.pull(STREAM, DURABLE)
    [message] = await pull.fetch(1)
    await dying._take_one(message)  # the effect is there; the acknowledgement is never sent
    await message.nak()
    await pull.close()

    async def acknowledged() -> bool:
        return await unacknowledged(nats) == 0

    async with running(await consumer(nats, database, clock, take_effect)):
        await eventually(acknowledged)
    assert await effects(database) == [(event.id, 1)]


@pytest.mark.parametrize("passing", [DependencyUnavailable, StreamFull])
async def test_effect_and_inbox_row_roll_back_together(
    nats: Broker, database: Database, clock: ManualClock, passing: type[Problem]
) -> None:
    """A handler that fails half-way leaves nothing, and the event takes effect when it comes again."""
    event = an_event()
    calls = 0

    async def fails_once(uow: UnitOfWork, taken: Event) -> None:
        nonlocal calls
        calls += 1
        await take_effect(uow, taken)
        if calls == 1:
            raise passing("on purpose")

    await publish(nats, event)

    async def acknowledged() -> bool:
        return await unacknowledged(nats) == 0

    async with running(await consumer(nats, database, clock, fails_once)):
        await eventually(acknowledged)
    assert calls == 2
    assert await effects(database) == [(event.id, 1)]


async def test_poison_is_buried_and_the_others_go_on(nats: Broker, database: Database, clock: ManualClock) -> None:
    """Undecodable messages and broken rules become dead letters, once; their neighbours take effect."""

    async def picky(uow: UnitOfWork, event: Event) -> None:
        if event.data == b"bad":
            raise RuleBroken("count -1 is below 0")
        await take_effect(uow, event)

    good = [an_event(1), an_event(3)]
    deploy = await nats.bus_as("deploy")
    await deploy.publish(good[0])
    await deploy.publish(an_event(2, data=b"bad"))
    await deploy.publish_raw(f"modelyard.deploy.v1.instance.allocated.{PROJECT}", b"\xff", {"Nats-Msg-Id": new_uid()})
    await deploy.publish(good[1])

    async def acknowledged() -> bool:
        return await unacknowledged(nats) == 0

    async with running(await consumer(nats, database, clock, picky)):
        await eventually(acknowledged)
    assert await effects(database) == [(event.id, event.sequence) for event in good]
    async with database.reader() as session:
        dead = (await session.execute(select(CHASSIS.dead_letter.c.why))).scalars().all()
    assert len(dead) == 2
    assert any("count -1" in why for why in dead)
    assert any("ce-type" in why for why in dead)


async def test_dead_letters_can_be_replayed(nats: Broker, database: Database, clock: ManualClock) -> None:
    """After the fix a dead letter takes effect once; what is still wrong stays, with the reason."""

    async def refuse(uow: UnitOfWork, event: Event) -> None:
        raise RuleBroken("not yet")

    async def fixed(uow: UnitOfWork, event: Event) -> None:
        if event.sequence == 2:
            raise RuleBroken("never")
        await take_effect(uow, event)

    await publish(nats, an_event(1), an_event(2))

    async def acknowledged() -> bool:
        return await unacknowledged(nats) == 0

    async with running(await consumer(nats, database, clock, refuse)):
        await eventually(acknowledged)
    handlers = Handlers(single={DURABLE: fixed})
    async with database.reader() as session:
        ids = (await session.execute(select(CHASSIS.dead_letter.c.id))).scalars().all()
    replay = await replay_dead_letters(database, clock, handlers, ids)
    assert len(replay.replayed) == 1
    assert list(replay.still_dead.values()) == ["never"]
    again = await replay_dead_letters(database, clock, handlers, [*ids, *ids])
    assert again.replayed == []
    assert any("took effect already" in why for why in again.still_dead.values())
    assert [sequence for _, sequence in await effects(database)] == [1]
    assert any(
        "no consumer" in why
        for why in (await replay_dead_letters(database, clock, Handlers(), ids)).still_dead.values()
    )
    with pytest.raises(DeadLetterNotFound, match="unknown"):
        await replay_dead_letters(database, clock, handlers, [*ids, "unknown"])


async def test_a_mistake_in_a_handler_does_not_stop_the_others(
    nats: Broker, database: Database, clock: ManualClock
) -> None:
    """An unexpected error is retried later; it buries nothing and blocks nothing."""
    failing = True

    async def stumbles(uow: UnitOfWork, event: Event) -> None:
        if failing and event.sequence == 1:
            raise KeyError("a bug")
        await take_effect(uow, event)

    await publish(nats, an_event(1), an_event(2))

    async def second_done() -> bool:
        return [sequence for _, sequence in await effects(database)] == [2]

    async def both_done() -> bool:
        return len(await effects(database)) == 2

    async with running(await consumer(nats, database, clock, stumbles)):
        await eventually(second_done)
        failing = False
        await eventually(both_done)


async def test_a_burst_takes_effect_once_and_in_order(nats: Broker, database: Database, clock: ManualClock) -> None:
    """Five hundred events, many delivered twice, leave five hundred effects in order."""
    events = [an_event(sequence) for sequence in range(500)]
    await publish(nats, *events)

    async def acknowledged() -> bool:
        return await unacknowledged(nats) == 0

    async with running(await consumer(nats, database, clock, take_effect)):
        await eventually(acknowledged, timeout_s=60)
    assert await effects(database) == [(event.id, event.sequence) for event in events]


async def test_batches_are_handed_over_again_until_they_are_taken(
    nats: Broker, database: Database, clock: ManualClock
) -> None:
    """A batch that failed comes again whole; a bad message in it is buried alone."""
    taken: list[bytes] = []
    attempts = 0

    async def handler(events: object) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise DependencyUnavailable("on purpose")
        batch = [event.data for event in events]  # type: ignore[attr-defined]
        if b"bad" in batch:
            raise RuleBroken("bad record")
        taken.extend(batch)

    inference = await nats.bus_as("inference")
    sent = [b"1", b"2", b"bad", b"3"]
    for number, data in enumerate(sent):
        event = Event(
            owner="inference",
            resource="usage",
            action="recorded",
            project_uid=None,
            type="test.Usage",
            data=data,
            aggregate_uid="journal",
            sequence=number,
            time=clock.now(),
        )
        await inference.publish(event)

    async def drained() -> bool:
        return await messages_in(nats, "USAGE") == 0

    bus = await nats.bus_as("billing")
    loop = BatchConsumer(bus, database, clock, "USAGE", "billing-usage", handler, retry_s_max=0.2)
    async with running(loop):
        await eventually(drained)
    assert sorted(taken) == [b"1", b"2", b"3"]
    async with database.reader() as session:
        assert (await session.execute(select(CHASSIS.dead_letter.c.data))).scalars().all() == [b"bad"]


async def test_old_inbox_rows_are_forgotten(nats: Broker, database: Database, clock: ManualClock) -> None:
    """Rows older than any redelivery go."""
    loop = await consumer(nats, database, clock, take_effect)
    async with database.unit_of_work() as uow:
        await uow.session.execute(
            CHASSIS.inbox.insert().values(consumer=DURABLE, event_id="old", effect_time=clock.now())
        )
        await uow.session.execute(update(CHASSIS.inbox).values(effect_time=clock.now()))
    clock.advance(200 * 86_400)
    await loop.forget_old()
    async with database.reader() as session:
        assert not (await session.execute(select(CHASSIS.inbox))).all()


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
