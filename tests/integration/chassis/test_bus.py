"""Ordered reads and watched buckets on a real broker, across its death."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from nats.js.api import DiscardPolicy, PubAck, StreamConfig

from chassis.bus import Bus, BusUnavailable, StreamFull
from chassis.errors import Problem
from chassis.events import Event, encode_projection
from chassis.ids import new_uid
from tests.infra.broker import Broker

PROJECT = "0190aaaa-0000-7000-8000-000000000001"


def posted(sequence: int) -> Event:
    return Event(
        owner="billing",
        resource="usage",
        action="posted",
        project_uid=PROJECT,
        type="test.Posted",
        data=b"",
        aggregate_uid="a",
        sequence=sequence,
        time=datetime(2026, 1, 1, tzinfo=UTC),
    )


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 (the condition is changed by another process)
            await asyncio.sleep(0.01)


class Copy:
    """What a watch told so far."""

    def __init__(self) -> None:
        self.values: dict[str, bytes | None] = {}

    def change(self, key: str, value: bytes | None, sequence: int) -> None:
        self.values[key] = value


# Ordered reads


async def test_a_stream_is_read_from_a_sequence_on(nats: Broker) -> None:
    """Resuming at a kept position gives what came after it, and then what is new."""
    billing = await nats.bus_as("billing")
    positions = [await billing.publish(posted(n)) for n in range(5)]
    seen = []
    async for position, event in billing.subscribe_stream("BILLING", "modelyard.billing.v1.>", positions[2]):
        seen.append((position, event.sequence))
        if len(seen) == 3:
            positions.append(await billing.publish(posted(5)))
        if len(seen) == 4:
            break
    assert seen == list(zip(positions[2:], range(2, 6), strict=True))


async def test_without_a_position_only_new_events_come(nats: Broker) -> None:
    """None means from now on."""
    billing = await nats.bus_as("billing")
    await billing.publish(posted(1))
    events = billing.subscribe_stream("BILLING", "modelyard.billing.v1.>", None)
    first = asyncio.ensure_future(anext(events))
    while not first.done():
        await billing.publish(posted(2))
        await asyncio.wait([first], timeout=0.2)
    assert first.result()[1].sequence == 2
    await events.aclose()  # type: ignore[attr-defined]


async def test_a_stream_is_read_without_gap_or_twin_across_the_brokers_death(own_nats: Broker) -> None:
    """The reader goes on where it was when the broker is back."""
    billing = await own_nats.bus_as("billing")
    seen: list[int] = []

    async def read() -> None:
        async for _, event in billing.subscribe_stream("BILLING", "modelyard.billing.v1.>", 1):
            seen.append(event.sequence)

    reading = asyncio.create_task(read())
    for n in range(10):
        await billing.publish(posted(n))
    await until(lambda: len(seen) == 10)
    own_nats.server.kill()
    await own_nats.server.start()
    await until(lambda: billing.connected)
    for n in range(10, 20):
        await billing.publish(posted(n))
    await until(lambda: len(seen) >= 20)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert seen == list(range(20))


async def test_a_slow_reader_of_many_events_misses_none(nats: Broker) -> None:
    """Flow control holds the server back; order and completeness stay."""
    billing = await nats.bus_as("billing")
    await asyncio.gather(*(billing.publish(posted(n)) for n in range(2000)))
    positions = []
    async for position, _ in billing.subscribe_stream("BILLING", "modelyard.billing.v1.>", 1):
        positions.append(position)
        if len(positions) == 2000:
            break
    assert positions == list(range(positions[0], positions[0] + 2000))


# Buckets


async def test_a_watch_lists_and_follows(nats: Broker) -> None:
    """Values there are, changes, and an empty payload as the end of a thing."""
    deploy, inference = await nats.bus_as("deploy"), await nats.bus_as("inference")
    await deploy.put_projection("routes", "a", encode_projection(1, b"one"))
    copy = Copy()
    watch = inference.watch_bucket("routes", copy.change)
    assert watch.staleness_s == float("inf")
    running = asyncio.create_task(watch.run())
    await asyncio.wait_for(watch.listed.wait(), 10)
    assert copy.values == {"a": b"one"}
    assert watch.staleness_s < 5
    await deploy.put_projection("routes", "b", encode_projection(1, b"two"))
    await deploy.put_projection("routes", "a", encode_projection(2, b""))
    await until(lambda: copy.values == {"a": None, "b": b"two"}, timeout_s=1.0)
    running.cancel()


async def test_a_watch_that_caught_up_has_what_was_there(nats: Broker) -> None:
    """Whatever was written before the question is told before its answer, and so is that nothing was."""
    deploy, inference = await nats.bus_as("deploy"), await nats.bus_as("inference")
    copy = Copy()
    watch = inference.watch_bucket("routes", copy.change)
    running = asyncio.create_task(watch.run())
    await asyncio.wait_for(watch.listed.wait(), 10)
    async with asyncio.timeout(10):
        await watch.catch_up(timeout_s=60)
        for number in range(200):
            await deploy.put_projection("routes", "a", encode_projection(number, str(number).encode()))
            await watch.catch_up(timeout_s=60)
            assert copy.values == {"a": str(number).encode()}
    running.cancel()


async def test_an_empty_bucket_is_listed_too(nats: Broker) -> None:
    """Readiness must not wait for a first value."""
    watch = (await nats.bus_as("inference")).watch_bucket("routes", Copy().change)
    running = asyncio.create_task(watch.run())
    await asyncio.wait_for(watch.listed.wait(), 10)
    running.cancel()


async def test_a_key_that_vanished_is_told_by_the_next_list(nats: Broker) -> None:
    """A bucket that was emptied behind the watch's back is noticed."""
    deploy, inference = await nats.bus_as("deploy"), await nats.bus_as("inference")
    await deploy.put_projection("routes", "a", encode_projection(1, b"one"))
    copy = Copy()
    watch = inference.watch_bucket("routes", copy.change, relist_s=0.1)
    running = asyncio.create_task(watch.run())
    await asyncio.wait_for(watch.listed.wait(), 10)
    await (await nats.tester()).jetstream.purge_stream("KV_routes")
    await until(lambda: copy.values == {"a": None})
    running.cancel()


async def test_a_watch_ages_while_the_broker_is_away_and_catches_up(own_nats: Broker) -> None:
    """The copy stays, its age grows, and the first list after the return has what changed."""
    deploy, inference = await own_nats.bus_as("deploy"), await own_nats.bus_as("inference")
    await deploy.put_projection("routes", "a", encode_projection(1, b"one"))
    copy = Copy()
    watch = inference.watch_bucket("routes", copy.change)
    running = asyncio.create_task(watch.run())
    await asyncio.wait_for(watch.listed.wait(), 10)
    own_nats.server.kill()
    await until(lambda: not inference.connected)
    age = watch.staleness_s
    await until(lambda: watch.staleness_s > age + 0.1)
    assert copy.values == {"a": b"one"}
    async with asyncio.timeout(10):
        await watch.catch_up(timeout_s=0.1)
    await own_nats.server.start()
    await until(lambda: deploy.connected)
    await deploy.put_projection("routes", "a", encode_projection(2, b"two"))
    await until(lambda: copy.values == {"a": b"two"})
    await until(lambda: watch.staleness_s < 1)
    running.cancel()


async def test_a_value_nobody_can_read_does_not_stop_the_watch(nats: Broker) -> None:
    """One bad value is passed over; its neighbours change."""
    deploy, inference = await nats.bus_as("deploy"), await nats.bus_as("inference")

    class Unreadable(Problem):
        pass

    copy = Copy()

    def change(key: str, value: bytes | None, sequence: int) -> None:
        if value == b"bad":
            raise Unreadable("on purpose")
        copy.change(key, value, sequence)

    watch = inference.watch_bucket("routes", change)
    running = asyncio.create_task(watch.run())
    await asyncio.wait_for(watch.listed.wait(), 10)
    await deploy.publish_raw("$KV.routes.short", b"x", {})
    await deploy.put_projection("routes", "bad", encode_projection(1, b"bad"))
    await deploy.put_projection("routes", "good", encode_projection(1, b"good"))
    await until(lambda: "good" in copy.values)
    assert not running.done()
    running.cancel()


# Publishing


async def test_the_same_id_is_taken_once(nats: Broker) -> None:
    """Publishing again after a lost acknowledgement adds nothing."""
    billing = await nats.bus_as("billing")
    event = posted(1)
    assert await billing.publish(event) == await billing.publish(event)


async def test_a_full_stream_says_so(nats: Broker) -> None:
    """A journal holds its records when the work queue takes no more."""
    tester = await nats.tester()
    await tester.jetstream.add_stream(
        StreamConfig(name="SMALL", subjects=["small.>"], max_bytes=4096, discard=DiscardPolicy.NEW)
    )

    async def fill() -> None:
        for _ in range(100):
            await tester.publish_raw("small.a", bytes(512), {"Nats-Msg-Id": new_uid()})

    with pytest.raises(StreamFull):
        await fill()
    await tester.jetstream.delete_stream("SMALL")


async def test_connecting_waits_for_a_broker_that_starts_later(own_nats: Broker) -> None:
    """Services start in any order."""
    await own_nats.server.stop()
    connecting = asyncio.create_task(
        Bus.connect(own_nats.url, own_nats.credentials["deploy"], "deploy", reconnect_wait_s=0.05)
    )
    await asyncio.wait([connecting], timeout=0.3)
    assert not connecting.done()
    await own_nats.server.start()
    bus = await asyncio.wait_for(connecting, 10)
    await bus.close()


async def test_a_closed_bus_is_unavailable(nats: Broker) -> None:
    """Every way of being away is one error."""
    bus = await nats.bus_as("billing")
    await bus.close()
    with pytest.raises(BusUnavailable):
        await bus.publish(posted(1))


async def test_a_publisher_that_is_cancelled_as_the_answer_comes_ends(
    nats: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment cannot be hit with a real answer, so the library's wait for one is stood in for."""
    bus = await nats.bus_as("billing")
    answer = asyncio.get_running_loop().create_future()

    async def publish(*_: object, timeout: float, **__: object) -> object:  # the library's name
        return await asyncio.wait_for(answer, timeout)

    monkeypatch.setattr(bus._jetstream, "publish", publish)
    publishing = asyncio.create_task(bus.publish(posted(1)))
    await asyncio.sleep(0)
    answer.set_result(PubAck(stream="BILLING", seq=1))
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
