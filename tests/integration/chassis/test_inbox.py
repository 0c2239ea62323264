"""From a real broker into another database: everything takes effect once, or is kept with the reason."""

from __future__ import annotations

import pytest
import pytest_asyncio
from sqlalchemy import select, update

from chassis.bus import StreamFull
from chassis.database import Database, UnitOfWork
from chassis.dead_letters import DeadLetterNotFound, Handlers, replay_dead_letters
from chassis.errors import DependencyUnavailable, Problem
from chassis.events import Event
from chassis.ids import new_uid
from chassis.inbox import BatchConsumer, Consumer
from tests.clock import ManualClock
from tests.conftest import DatabaseFactory
from tests.infra.broker import Broker
from tests.integration.chassis.flow import (
    CHASSIS,
    DURABLE,
    METADATA,
    PROJECT,
    STREAM,
    RuleBroken,
    an_event,
    effects,
    eventually,
    messages_in,
    running,
    take_effect,
    unacknowledged,
)


@pytest_asyncio.fixture
async def database(make_database: DatabaseFactory) -> Database:
    return await make_database(CHASSIS, METADATA)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


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
    # Its next request is open by now, and would be given what comes again.
    await pull.close()
    await message.nak()

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
