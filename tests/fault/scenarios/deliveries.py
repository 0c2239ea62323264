"""Events come twice, late, in another order, with other content, or broken; and two services take them at once."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from modelyard.billing.v1 import billing_pb2
from modelyard.billing.v1 import events_pb2 as billing_events
from modelyard.events.v1 import dead_letters_pb2
from modelyard.type.v1 import money_pb2, usage_pb2

from chassis.bus import Bus
from chassis.clock import SystemClock
from chassis.events import Event, published_event
from chassis.ids import new_uid
from cli.session import collect
from embedded.supervisor import Child, Supervisor
from embedded.topology import PROVISIONER
from tests.fault.scenarios.hurt import Kind, Place
from tests.fault.scenarios.scenario import Round, Scenario
from tests.infra.early_fact import early_fact
from tests.infra.tenant import READY_S_MAX, until
from tests.infra.witnesses import Ledger

USAGE = "modelyard.inference.v1.usage.recorded._"
RECORDS_A_MESSAGE = (1, 5)


@asynccontextmanager
async def bus_as(place: Place, identity: str) -> AsyncIterator[Bus]:
    """A second connection with a service's own rights."""
    home = place.platform.home
    url = json.loads(home.addresses.read_text())["nats"]
    bus = await Bus.connect(url, home.nats_credential(identity), identity)
    try:
        yield bus
    finally:
        await bus.close()


async def posted_records(played: Round) -> list[usage_pb2.UsageRecord]:
    """The tenant's records so far, as billing has them."""
    request = billing_pb2.ListUsageRequest(parent=played.tenant.name)
    return [one.record for one in await collect(played.tenant.modelyard.billing.ListUsage, request, "usage")]


def usage_event(*records: usage_pb2.UsageRecord) -> Event:
    """A message of usage, as inference sends it, with an id of its own."""
    batch = usage_pb2.UsageBatch(records=records)
    return published_event(
        "inference",
        "usage",
        "recorded",
        batch,
        project_uid=None,
        aggregate_uid=records[0].journal_id,
        sequence=records[-1].journal_seq,
        time=SystemClock().now(),
    )


async def stored(bus: Bus, stream: str) -> list[Event]:
    """Everything that is in a stream now."""
    last = await bus.last_sequence(stream)
    events: list[Event] = []
    async with aclosing(bus.subscribe_stream(stream, "modelyard.>", 1)) as found:
        async for sequence, event in found:
            events.append(event)
            if sequence >= last:
                break
    return events


async def stream_again(played: Round) -> None:
    """All usage comes once more in other batches and another order, and so do all facts of deploy, as new messages."""
    await played.scale(0)
    fault = played.goes_wrong("stream replayed")
    records = await posted_records(played)
    records = played.rng.sample(records, len(records)) + played.rng.sample(records, len(records))
    async with bus_as(played.place, "inference") as inference:
        while records:
            count = played.rng.randint(*RECORDS_A_MESSAGE)
            await inference.publish(usage_event(*records[:count]))
            del records[:count]
    async with bus_as(played.place, PROVISIONER) as provisioner:
        facts = await stored(provisioner, "DEPLOY")
    async with bus_as(played.place, "deploy") as deploy:
        for event in played.rng.sample(facts, len(facts)):
            # Another message id: the broker takes it for a new one, and the inbox must not.
            await deploy.publish_raw(event.subject, event.data, {**event.headers(), "Nats-Msg-Id": new_uid()})
    await played.recovered(fault.at_s)


async def conflicting_duplicate(played: Round) -> None:
    """A record comes again with more tokens: it is quarantined and announced, and the bill stays what it was."""
    await played.scale(0)
    fault = played.goes_wrong("conflicting duplicate")
    changed = played.rng.choice(await posted_records(played))
    for quantity in changed.quantities:
        if quantity.meter == money_pb2.METER_OUTPUT_TOKENS:
            quantity.value += 1
    async with bus_as(played.place, "billing") as billing, bus_as(played.place, "inference") as inference:
        subject = "modelyard.billing.v1.usage.conflicted.*"
        start = await billing.last_sequence("BILLING") + 1
        await inference.publish(usage_event(changed))
        async with asyncio.timeout(READY_S_MAX), aclosing(billing.subscribe_stream("BILLING", subject, start)) as heard:
            async for _, event in heard:
                conflicted = billing_events.UsageConflicted.FromString(event.data)
                if conflicted.record_id == changed.id:
                    break
    told = f"record {changed.id} was quarantined: the same id came with other content"
    played.expected.append(f"reconcile: conflict: {told}")
    if not conflicted.billed_digest or conflicted.billed_digest == conflicted.quarantined_digest:
        played.differences.append(f"the conflict of record {changed.id} is announced without both digests")
    await played.recovered(fault.at_s)


async def poisoned_message(played: Round) -> None:
    """A message that is no usage and a fact from too far ahead become dead letters, and their neighbours are taken;
    `modelyard events replay` takes the fact when its time is near, and says of the other why it cannot.
    """
    await played.scale(0)
    fault = played.goes_wrong("poisoned message")
    clock = SystemClock()
    early, near_time = early_fact()
    async with bus_as(played.place, "inference") as inference, bus_as(played.place, "deploy") as deploy:
        await inference.publish_raw(USAGE, b"no usage", {"Nats-Msg-Id": new_uid()})
        await deploy.publish(early)
    stub = played.tenant.modelyard.dead_letters["billing"]

    async def waiting() -> dict[str, str]:
        found = await collect(stub.ListDeadLetters, dead_letters_pb2.ListDeadLettersRequest(), "dead_letters")
        return {letter.consumer: letter.id for letter in found}

    async def both_wait() -> bool:
        return (await waiting()).keys() == {"billing-usage", "billing-instances"}

    async def near() -> bool:
        return clock.now() > near_time

    await until(both_wait, "both messages are dead letters", s_max=READY_S_MAX)
    ids = await waiting()
    await until(near, "the fact's time is near", s_max=READY_S_MAX)
    command = [sys.executable, "-c", "from cli.main import main; main()", "events", "replay", "--json"]
    environment = {**os.environ, "MODELYARD_HOME": str(played.tenant.data_dir)}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=pipe)
    said = json.loads((await process.communicate())[0])
    if said["replayed_ids"] != [ids["billing-instances"]]:
        played.differences.append(f"the replay took {said['replayed_ids']}, and not {ids['billing-instances']} alone")
    if [one["id"] for one in said["failures"]] != [ids["billing-usage"]] or (await waiting()).keys() != {
        "billing-usage"
    }:
        played.differences.append(f"the message that is no usage does not wait on: {said['failures']}")
    await played.recovered(fault.at_s)


async def two_billings(played: Round) -> None:
    """A second billing on the same database: both consume and both relay, and what one has posted the other has not."""
    place = played.place
    first = place.platform.children["billing"]
    ready_file = place.logs / "second-billing.json"
    environment = {
        **first.environment,
        "MODELYARD_BILLING_GRPC_ADDRESS": "127.0.0.1:0",
        "MODELYARD_BILLING_READY_FILE": str(ready_file),
        "MODELYARD_BILLING_DATA_DIR": str(place.logs / "second-billing"),
    }
    second = Child("billing", first.command, environment, ready_file=ready_file)

    def keep(_: str, line: str) -> None:
        with (place.logs / "second-billing.log").open("a") as log:
            log.write(f"{line}\n")

    async def ready() -> bool:
        return second.is_ready

    supervisor = Supervisor(keep)
    supervisor.start(second)
    try:
        await until(ready, "the second billing answers", s_max=READY_S_MAX)
        fault = played.goes_wrong("two billings")
        await played.scale(0)

        async def both_posted() -> bool:
            assert first.ready_file is not None
            files = (first.ready_file, ready_file)
            return all(
                [await asyncio.to_thread(_posted_count, json.loads(file.read_text())["metrics"]) for file in files]
            )

        await until(both_posted, "both billings have posted usage", s_max=READY_S_MAX)
        await played.scale(1)
        await played.recovered(fault.at_s)
        await played.tenant.steady(played.log, fault.at_s)
    finally:
        await supervisor.stop(["billing"])

    async def announced_once(ledger: Ledger) -> list[str]:
        async with bus_as(place, PROVISIONER) as provisioner:
            events = await stored(provisioner, "BILLING")
        twice = [uid for uid, count in Counter(event.id for event in events).items() if count > 1]
        announced: Counter[str] = Counter()
        for event in events:
            if event.resource == "usage" and event.action == "posted":
                announced.update(one.record.id for one in billing_events.UsagePosted.FromString(event.data).usage)
        return [f"event {uid} is in the stream more than once" for uid in twice] + [
            f"record {record.id} is announced {announced[record.id]} times"
            for record in ledger.records
            if announced[record.id] != 1
        ]

    played.afterwards.append(announced_once)


def _posted_count(metrics_url: str) -> int:
    """Usage records that a billing process has posted since its start."""
    with urllib.request.urlopen(metrics_url, timeout=5) as answer:  # noqa: S310 - an address of ours
        text = answer.read().decode()
    return int(
        sum(float(value) for value in re.findall(r"^modelyard_billing_usage_posted\S* (\S+)$", text, re.MULTILINE))
    )


DELIVERIES = [
    Scenario("two billings", two_billings, Kind.POSTGRESQL),
    Scenario("stream replayed", stream_again),
    Scenario("conflicting duplicate", conflicting_duplicate),
    Scenario("poisoned message", poisoned_message),
]
