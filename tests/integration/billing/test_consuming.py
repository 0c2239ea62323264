"""Billing's consumers on the real broker: what deploy and inference publish reaches the ledger once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest
from google.protobuf.message import Message
from modelyard.billing.v1 import events_pb2 as billing_events
from modelyard.deploy.v1 import events_pb2
from modelyard.type.v1 import access_pb2, usage_pb2
from sqlalchemy import select

from chassis.database import Database
from chassis.events import Event, decode_projection, published_event
from chassis.inbox import BatchConsumer, Consumer
from chassis.outbox import OutboxRelay
from services.billing.domain.usage import UsageFact
from services.billing.events.consumed import Consumed
from services.billing.events.published import timestamp, usage_to_proto
from services.billing.storage.tables import (
    CHASSIS,
    InstanceRow,
    QuarantineRow,
    SeenDeploymentRow,
    SeenProjectRow,
    WindowRow,
)
from services.billing.usecases.read_bill import get_bill, reconcile
from tests.clock import START, ManualClock
from tests.conftest import DatabaseFactory
from tests.infra.broker import Broker
from tests.integration.billing.build import (
    DEPLOYMENT,
    HOUR_PRICE,
    INSTANCE,
    JOURNAL,
    PROJECT,
    count_of,
    ledger_with_prices,
    rows_of,
    tokens,
    usage,
)

NAME = "projects/shop/endpoints/talk/deployments/blue"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 (the condition is in another process)
            await asyncio.sleep(0.02)


async def consumers(nats: Broker, database: Database, clock: ManualClock) -> list[Consumer | BatchConsumer]:
    """The four of one billing process."""
    bus = await nats.bus_as("billing")
    consumed = Consumed(database, clock)
    return [
        BatchConsumer(bus, database, clock, "USAGE", "billing-usage", consumed.usage, batch_max=3),
        Consumer(bus, database, clock, "DEPLOY", "billing-instances", consumed.instance),
        Consumer(bus, database, clock, "DEPLOY", "billing-projects", consumed.project),
        Consumer(bus, database, clock, "DEPLOY", "billing-deployments", consumed.deployment),
    ]


@contextlib.asynccontextmanager
async def running(*loops: Consumer | BatchConsumer | OutboxRelay) -> AsyncIterator[None]:
    """At work inside the block; one that ends by itself fails the test."""
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


def batch(*facts: UsageFact) -> Event:
    """One message of usage, as inference sends it."""
    return published_event(
        "inference",
        "usage",
        "recorded",
        usage_pb2.UsageBatch(records=[usage_to_proto(fact) for fact in facts]),
        project_uid=None,
        aggregate_uid=JOURNAL,
        sequence=facts[0].journal_seq,
        time=START,
    )


def fact(resource: str, action: str, message: Message) -> Event:
    """One event of deploy."""
    return published_event(
        "deploy", resource, action, message, project_uid=PROJECT, aggregate_uid=INSTANCE, sequence=1, time=START
    )


def life(hours: float) -> list[Event]:
    """An instance's facts: allocated at START, seen each half hour, released."""
    seen = [START + timedelta(minutes=30 * number) for number in range(1, int(hours * 2) + 1)]
    return [
        fact(
            "instance",
            "allocated",
            events_pb2.InstanceAllocated(
                instance_uid=INSTANCE,
                project_uid=PROJECT,
                deployment_uid=DEPLOYMENT,
                deployment=NAME,
                vcpus=2,
                price_version=HOUR_PRICE,
                allocate_time=timestamp(START),
            ),
        ),
        *(
            fact(
                "instance",
                "observed",
                events_pb2.InstanceObserved(instance_uid=INSTANCE, through_time=timestamp(moment)),
            )
            for moment in seen
        ),
        fact(
            "instance",
            "released",
            events_pb2.InstanceReleased(instance_uid=INSTANCE, release_time=timestamp(START + timedelta(hours=hours))),
        ),
    ]


async def all_taken(nats: Broker, stream: str, durable: str) -> bool:
    info = await (await nats.tester()).jetstream.consumer_info(stream, durable)
    return not (info.num_ack_pending or info.num_pending)


async def dead_letters(database: Database) -> int:
    async with database.reader() as session:
        return len((await session.execute(select(CHASSIS.dead_letter.c.id))).all())


async def test_usage_reaches_the_ledger_once(make_database: DatabaseFactory, nats: Broker, clock: ManualClock) -> None:
    """Two processes take overlapping messages that were sent again and again: one sum."""
    databases = [await ledger_with_prices(make_database) for _ in range(2)]
    inference = await nats.bus_as("inference")
    facts = [usage(number) for number in range(1, 61)]
    for start in (*range(0, 60, 5), *range(55, -1, -5)):
        await inference.publish(batch(*facts[start : start + 5], *facts[:2]))
    loops = [loop for database in databases for loop in await consumers(nats, database, clock)]
    async with running(*loops):
        await eventually(lambda: all_taken(nats, "USAGE", "billing-usage"))
    assert await tokens(databases[0]) == 600
    assert (await reconcile(databases[0], clock, PROJECT, "")).differences == []


async def test_a_broken_record_on_the_wire_costs_nobody_else(
    make_database: DatabaseFactory, nats: Broker, clock: ManualClock
) -> None:
    """Quarantined; its neighbours are billed, the messages behind it too, and its journal may forget it."""
    database = await ledger_with_prices(make_database)
    inference = await nats.bus_as("inference")
    await inference.publish(batch(usage(1), usage(2, model_version="a\0b", project_uid="no project"), usage(3)))
    await inference.publish(batch(usage(4)))
    relay = OutboxRelay(database, await nats.bus_as("billing"), clock)
    async with running(relay, *await consumers(nats, database, clock)):
        await eventually(lambda: all_taken(nats, "USAGE", "billing-usage"))
        await eventually(lambda: watermark_is(nats, 4))
    assert await tokens(database) == 30
    assert await count_of(database, QuarantineRow) == 1


async def watermark_is(nats: Broker, expected: int) -> bool:
    tester = await nats.tester()
    bucket = await tester.jetstream.stream_info("KV_watermarks")
    if not bucket.state.messages:
        return False
    entry = await tester.jetstream.get_last_msg("KV_watermarks", f"$KV.watermarks.{JOURNAL}")
    _, value = decode_projection(entry.data or b"")
    return access_pb2.JournalWatermark.FromString(value).committed_seq == expected


async def test_what_is_quarantined_is_announced(
    make_database: DatabaseFactory, nats: Broker, clock: ManualClock
) -> None:
    """A subscriber of the project hears of a conflict."""
    database = await ledger_with_prices(make_database)
    inference, billing = await nats.bus_as("inference"), await nats.bus_as("billing")
    await inference.publish(batch(usage(1), usage(1, quantities=((1, 500),))))
    async with running(OutboxRelay(database, billing, clock), *await consumers(nats, database, clock)):
        subject = f"modelyard.billing.v1.usage.conflicted.{PROJECT}"
        async with asyncio.timeout(20), contextlib.aclosing(billing.subscribe_stream("BILLING", subject, 1)) as heard:
            async for _, event in heard:
                assert billing_events.UsageConflicted.FromString(event.data).record_id == usage(1).id
                break


async def test_a_message_that_is_no_usage_is_a_dead_letter(
    make_database: DatabaseFactory, nats: Broker, clock: ManualClock
) -> None:
    """And those beside it are billed."""
    database = await ledger_with_prices(make_database)
    inference = await nats.bus_as("inference")
    broken = batch(usage(9))
    await inference.publish(batch(usage(1)))
    await inference.publish_raw(broken.subject, b"\xff\xff", broken.headers())
    await inference.publish(batch(usage(2)))
    async with running(*await consumers(nats, database, clock)):
        await eventually(lambda: all_taken(nats, "USAGE", "billing-usage"))
    assert await tokens(database) == 20
    assert await dead_letters(database) == 1


@pytest.mark.parametrize("backwards", [False, True])
async def test_instance_facts_become_a_bill(
    make_database: DatabaseFactory, nats: Broker, clock: ManualClock, backwards: bool
) -> None:
    """Whatever order deploy's relays keep; each fact published twice."""
    database = await ledger_with_prices(make_database)
    deploy = await nats.bus_as("deploy")
    clock.advance(3 * 3600)
    events = life(2.5)
    for event in [*(events[::-1] if backwards else events), *events]:
        await deploy.publish(event)
    async with running(*await consumers(nats, database, clock)):
        await eventually(lambda: all_taken(nats, "DEPLOY", "billing-instances"))
    assert await count_of(database, WindowRow) == 3
    bill = await get_bill(database, clock, PROJECT, "")
    assert str(bill.total) == "0.240000"
    assert bill.deployments == {DEPLOYMENT: NAME}


async def test_a_fact_that_contradicts_is_a_dead_letter(
    make_database: DatabaseFactory, nats: Broker, clock: ManualClock
) -> None:
    """The others of the instance stand."""
    database = await ledger_with_prices(make_database)
    deploy = await nats.bus_as("deploy")
    clock.advance(3 * 3600)
    wrong = events_pb2.InstanceReleased(instance_uid=INSTANCE, release_time=timestamp(START + timedelta(hours=3)))
    for event in [*life(1), fact("instance", "released", wrong)]:
        await deploy.publish(event)
    async with running(*await consumers(nats, database, clock)):
        await eventually(lambda: all_taken(nats, "DEPLOY", "billing-instances"))
    assert await dead_letters(database) == 1
    (row,) = await rows_of(database, InstanceRow)
    assert row.release_ms == int((START + timedelta(hours=1)).timestamp() * 1000)


async def test_names_are_remembered_as_first_seen(
    make_database: DatabaseFactory, nats: Broker, clock: ManualClock
) -> None:
    """A name that is used again for another deployment renames no bill."""
    database = await ledger_with_prices(make_database)
    deploy = await nats.bus_as("deploy")
    await deploy.publish(fact("project", "created", events_pb2.ProjectCreated(project_uid=PROJECT, project="shop")))
    for name in (NAME, f"{NAME}-renamed"):
        changed = events_pb2.DeploymentChanged(deployment_uid=DEPLOYMENT, deployment=name, state="ACTIVE")
        await deploy.publish(fact("deployment", "changed", changed))
    async with running(*await consumers(nats, database, clock)):
        for durable in ("billing-projects", "billing-deployments"):
            await eventually(lambda durable=durable: all_taken(nats, "DEPLOY", durable))  # type: ignore[misc]
    assert [row.project for row in await rows_of(database, SeenProjectRow)] == ["shop"]
    assert [row.deployment for row in await rows_of(database, SeenDeploymentRow)] == [NAME]
