"""What each NATS identity may not do, asked of the real server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError

from chassis.bus import Bus, BusUnavailable
from embedded.topology import CONSUMERS, SERVICES, apply_topology, subscriber_permissions
from tests.infra.broker import Broker

OURS = "0190aaaa-0000-7000-8000-000000000001"
THEIRS = "0190bbbb-0000-7000-8000-000000000002"


async def identity(nats: Broker, name: str) -> tuple[Client, list[str]]:
    refusals: list[str] = []
    return await nats.client_with(nats.credentials[name], name, refusals), refusals


async def refused(client: Client, refusals: list[str], what: str, expected: bool) -> bool:
    """Whether the server refused `what`, such as `subscription to ">"`.

    Refusals come by themselves, in no strict order with replies; one that is certain ends the waiting.
    """
    await client.publish("certainly.refused", b"")
    await client.flush()
    async with asyncio.timeout(5):
        while not said(refusals, 'publish to "certainly.refused"'):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        while expected and not said(refusals, what):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    result = said(refusals, what)
    refusals.clear()
    return result


def said(refusals: list[str], what: str) -> bool:
    return any(what.lower() in refusal.lower() for refusal in refusals)


async def refused_subscription(client: Client, refusals: list[str], subject: str, expected: bool = True) -> bool:
    await client.subscribe(subject)
    return await refused(client, refusals, f'subscription to "{subject}"', expected)


async def refused_publish(client: Client, refusals: list[str], subject: str, expected: bool = True) -> bool:
    await client.publish(subject, b"")
    return await refused(client, refusals, f'publish to "{subject}"', expected)


async def connects(nats: Broker, credential: Path | None) -> bool:
    """Whether the server lets this credential in."""
    try:
        client = await nats.client_with(credential, "any", [])
        await client.flush(timeout=2)
    except (NatsError, OSError, TimeoutError):
        return False
    return bool(client.is_connected)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_publishes_only_under_its_own_name(nats: Broker, service: str) -> None:
    """No service can say what another one owns."""
    client, refusals = await identity(nats, service)
    for owner in SERVICES:
        subject = f"modelyard.{owner}.v1.thing.changed.{OURS}"
        theirs = owner != service
        assert await refused_publish(client, refusals, subject, theirs) == theirs, owner


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_writes_only_its_own_buckets(nats: Broker, service: str) -> None:
    """Routes and access come from deploy, watermarks from billing."""
    writers = {"projects": "deploy", "access": "deploy", "routes": "deploy", "watermarks": "billing"}
    client, refusals = await identity(nats, service)
    for bucket, writer in writers.items():
        theirs = writer != service
        assert await refused_publish(client, refusals, f"$KV.{bucket}.k", theirs) == theirs, bucket


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_takes_only_from_its_own_consumers(nats: Broker, service: str) -> None:
    """Neither fetching nor acknowledging for another one."""
    client, refusals = await identity(nats, service)
    for consumer in CONSUMERS:
        theirs = consumer.service != service
        for subject in (
            f"$JS.API.CONSUMER.MSG.NEXT.{consumer.stream}.{consumer.durable}",
            f"$JS.ACK.{consumer.stream}.{consumer.durable}.1.1.1.1.0",
        ):
            assert await refused_publish(client, refusals, subject, theirs) == theirs, subject


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_hears_only_its_own_replies(nats: Broker, service: str) -> None:
    """Nobody listens to another one's inbox, nor to subjects past the streams."""
    client, refusals = await identity(nats, service)
    assert not await refused_subscription(client, refusals, f"_INBOX.{service}.x", expected=False)
    others = [f"_INBOX.{other}.>" for other in SERVICES if other != service]
    for subject in (*others, "_INBOX.>", ">", "modelyard.>", "$KV.>", "$JS.>", "$SYS.>"):
        assert await refused_subscription(client, refusals, subject), subject


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_changes_no_stream(nats: Broker, service: str) -> None:
    """Streams and durable consumers are the provisioner's."""
    client, refusals = await identity(nats, service)
    for subject in (
        "$JS.API.STREAM.CREATE.MINE",
        "$JS.API.STREAM.DELETE.USAGE",
        "$JS.API.STREAM.PURGE.USAGE",
        "$JS.API.STREAM.UPDATE.DEPLOY",
        "$JS.API.STREAM.MSG.DELETE.BILLING",
        "$JS.API.STREAM.MSG.GET.USAGE",
        "$JS.API.CONSUMER.CREATE.USAGE.x",
        "$JS.API.CONSUMER.DELETE.USAGE.billing-usage",
        "$JS.API.CONSUMER.DURABLE.CREATE.DEPLOY.x",
    ):
        assert await refused_publish(client, refusals, subject), subject


async def test_the_provisioner_reads_nothing(nats: Broker) -> None:
    """It makes streams; what flows through them is none of its business."""
    client, refusals = await identity(nats, "provisioner")
    for subject in (
        "$JS.API.STREAM.MSG.GET.BILLING",
        "$JS.API.DIRECT.GET.KV_access.$KV.access.k",
        "$JS.API.CONSUMER.MSG.NEXT.USAGE.billing-usage",
        "$JS.API.STREAM.DELETE.USAGE",
        f"modelyard.billing.v1.usage.posted.{OURS}",
    ):
        assert await refused_publish(client, refusals, subject), subject
    assert await refused_subscription(client, refusals, ">")


async def test_a_subscriber_hears_its_project_and_nothing_else(nats: Broker) -> None:
    """One project's billing subjects and what is ahead of its deployments; not another's, not everything, no stream, no
    consumer, no inbox."""
    refusals: list[str] = []
    client = await nats.client_with(nats.subscriber_credential(OURS), "dashboard", refusals)
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def hear(message: object) -> None:
        await heard.put(message.data)  # type: ignore[attr-defined]

    await client.subscribe(f"modelyard.billing.v1.*.*.{OURS}", cb=hear)
    await client.flush()
    assert not refusals
    billing = await nats.bus_as("billing")
    for project, data in ((THEIRS, b"theirs"), (OURS, b"ours")):
        await billing.publish_raw(f"modelyard.billing.v1.usage.posted.{project}", data, {})
    assert await asyncio.wait_for(heard.get(), 5) == b"ours"
    await client.subscribe(f"modelyard.deploy.v1.deployment.change-announced.{OURS}", cb=hear)
    await client.flush()
    assert not refusals
    deploy = await nats.bus_as("deploy")
    for project, data in ((THEIRS, b"theirs"), (OURS, b"told")):
        await deploy.publish_raw(f"modelyard.deploy.v1.deployment.change-announced.{project}", data, {})
    assert await asyncio.wait_for(heard.get(), 5) == b"told"
    assert heard.empty()

    for subject in (
        ">",
        "modelyard.>",
        "modelyard.billing.v1.>",
        f"modelyard.billing.v1.*.*.{THEIRS}",
        "modelyard.billing.v1.*.*.*",
        f"modelyard.deploy.v1.*.*.{OURS}",
        f"modelyard.deploy.v1.deployment.changed.{OURS}",
        f"modelyard.deploy.v1.deployment.change-announced.{THEIRS}",
        "modelyard.inference.v1.usage.recorded._",
        "$KV.>",
        "$JS.API.>",
        "_INBOX.>",
        "_INBOX.billing.>",
    ):
        assert await refused_subscription(client, refusals, subject), subject
    for subject in (
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.MSG.GET.BILLING",
        "$JS.API.CONSUMER.CREATE.BILLING.x",
        "$JS.API.CONSUMER.MSG.NEXT.USAGE.billing-usage",
        f"modelyard.billing.v1.usage.posted.{OURS}",
        "anything",
    ):
        assert await refused_publish(client, refusals, subject), subject


async def test_an_expired_credential_is_refused(nats: Broker) -> None:
    """A dashboard's access ends with its credential."""
    credential = nats.credential("short", subscriber_permissions(OURS), expires_s=2)
    client = await nats.client_with(credential, "short", [])
    async with asyncio.timeout(10):
        while client.is_connected:  # noqa: ASYNC110 (the server decides)
            await asyncio.sleep(0.05)
    assert not await connects(nats, credential)


async def test_no_credential_and_a_foreign_one_are_refused(nats: Broker, own_nats: Broker) -> None:
    """Only users our account signed may connect."""
    assert not await connects(nats, None)
    assert not await connects(nats, own_nats.credentials["deploy"])
    assert await connects(nats, nats.credentials["deploy"])


async def test_applying_the_topology_again_changes_nothing(nats: Broker) -> None:
    """Each start of the platform applies it; what is in the streams stays."""
    billing = await nats.bus_as("billing")
    await billing.publish_raw(f"modelyard.billing.v1.usage.posted.{OURS}", b"", {})
    provisioner = await nats.bus_as("provisioner")
    await apply_topology(provisioner.jetstream)
    assert (await (await nats.tester()).jetstream.stream_info("BILLING")).state.messages == 1


async def test_a_refused_publish_is_unavailable_to_a_bus(nats: Broker) -> None:
    """The server does not answer what it refuses, so waiting ends at the timeout."""
    bus = await Bus.connect(nats.url, nats.credentials["catalog"], "catalog", ack_timeout_s=0.3)
    with pytest.raises(BusUnavailable):
        await bus.publish_raw("modelyard.deploy.v1.a.b._", b"", {})
    await bus.close()
