"""kill -9 of each part under mixed load: the platform mends itself, and the ledger is what the witnesses saw."""

from __future__ import annotations

import asyncio
import json
import random
import time
from pathlib import Path

import pytest

from tests.fault.platform.conftest import PROJECT, Victim, deploy_all
from tests.fault.platform.kills import instance_processes, kill
from tests.infra.load import Load, Seen
from tests.infra.proof import broken_rules, engine_counts, read_life
from tests.infra.up import Up, processes_naming, running_up

PARTS = ["catalog", "deploy", "billing", "inference", "nats", "triton", "stub", "keeper"]
ENDPOINTS = {"chat", "vectors", "managed"}
# What the customer may be given when nothing of ours lived to see an instance's end, or to the clock's grain.
LIFE_MS_DIFF_MAX = 100
NOTHING_RUNS_S_MAX = 30.0

pytestmark = pytest.mark.timeout(300)


async def until_posted(victim: Victim, *, s_max: float = 90.0) -> None:
    """Wait until the ledger holds every call that its client saw whole."""
    wanted = {call.request_id for call in victim.calls if call.seen is Seen.COMPLETED}
    async with asyncio.timeout(s_max):
        while True:
            if wanted <= {record.request_id for record in await asyncio.to_thread(victim.records)}:
                return
            await asyncio.sleep(0.2)


async def until_settled(victim: Victim, *, s_max: float = 90.0) -> None:
    """Wait until no call runs and none is on its way to the ledger."""
    async with asyncio.timeout(s_max):
        while True:
            status = await asyncio.to_thread(victim.up.run, "status", "--json", status=None)
            parts = {part["name"]: part for part in json.loads(status.stdout)["parts"]}
            if " 0 running, 0 on their way" in parts.get("usage journal", {}).get("detail", ""):
                return
            await asyncio.sleep(0.2)


def managed_instance(up: Up) -> str:
    """The uid of the managed deployment's newest instance that answers."""
    deployment = next(
        one
        for one in up.json("deployments", "-p", PROJECT)
        if one["name"].endswith("endpoints/managed/deployments/blue")
    )
    uid: str = next(one["uid"] for one in deployment["instances"] if one["state"] == "INSTANCE_STATE_READY")
    return uid


async def run_load(load: Load, rng: random.Random) -> int:
    """Start load and wait for the moment of the kill; how many calls were begun by then."""
    load.start()
    enough = len(load.calls) + rng.randint(8, 20)
    await load.until(lambda: len(load.calls) >= enough and load.completed() == ENDPOINTS)
    await asyncio.sleep(rng.uniform(0, 0.3))  # the seeded moment itself
    return len(load.calls)


@pytest.mark.parametrize("part", PARTS)
async def test_a_killed_part_costs_no_record(victim: Victim, rng: random.Random, part: str) -> None:
    """Every endpoint answers again, and every call is billed by the rules of `broken_rules`."""
    instance_uid = managed_instance(victim.up)
    load = victim.new_load(rng.randrange(10**6))
    begun = await run_load(load, rng)
    kill(victim.up, part, instance_uid)
    await load.until(lambda: load.completed(victim.calls[begun + load.clients :]) == ENDPOINTS)
    await load.stop()
    await until_posted(victim)
    await until_settled(victim)
    assert victim.broken_rules() == []


async def test_the_bill_is_the_sum_of_its_records(victim: Victim) -> None:
    """After all that: reconciling finds nothing, and token lines are what the records of serverless calls count."""
    await until_posted(victim)
    assert victim.up.json("reconcile", "-p", PROJECT)["differences"] == []
    serverless = {call.request_id for call in victim.calls if call.endpoint != "managed"}
    counted = sum(
        record.input_tokens + record.output_tokens for record in victim.records() if record.request_id in serverless
    )
    lines = victim.up.json("bill", "-p", PROJECT)["lines"]
    billed = sum(int(line["quantity"]) for line in lines if line["rate"]["meter"] != "METER_CORE_MILLISECONDS")
    assert billed == counted


def test_no_instance_runs_that_nobody_pays_for(victim: Victim) -> None:
    """After all kills each instance that runs is one that deploy knows."""
    known = {instance["uid"] for instance in victim.up.json("status")["instances"]}
    assert set(instance_processes(victim.up.home)) <= known


async def test_instances_are_billed_from_allocation_to_their_end(victim: Victim) -> None:
    """Each managed instance's line is its life by its keeper's files; none is billed that is gone."""
    victim.up.run("delete", "managed", "-p", PROJECT, "--yes")
    deadline = time.monotonic() + 60
    while True:
        (line,) = [
            line
            for line in victim.up.json("bill", "-p", PROJECT)["lines"]
            if line["rate"]["meter"] == "METER_CORE_MILLISECONDS"
        ]
        events = victim.up.json("bill", "-p", PROJECT, "--explain", line["id"])["events"]
        if not any(event["open"] for event in events) and not instance_processes_of(victim, events):
            break
        assert time.monotonic() < deadline, "the ends of the instances did not reach the bill"
        await asyncio.sleep(0.2)
    billed: dict[str, int] = {}
    for event in events:
        billed[event["instance_uid"]] = billed.get(event["instance_uid"], 0) + int(event["quantity"])
    for uid, core_ms in billed.items():
        life = read_life(victim.instances_dir, uid)
        assert life.exited_ms is not None
        assert abs(core_ms - life.vcpus * (life.exited_ms - life.allocated_ms)) <= life.vcpus * LIFE_MS_DIFF_MAX


def instance_processes_of(victim: Victim, events: list[dict[str, str]]) -> set[str]:
    """Instances on a line that still run."""
    return {event["instance_uid"] for event in events} & set(instance_processes(victim.up.home))


async def test_a_killed_supervisor_leaves_nothing_running_and_loses_nothing(tmp_path: Path, rng: random.Random) -> None:
    """Services, broker, keepers and Triton end within 30 s; the next start adopts the journal and has the whole bill."""
    with running_up(tmp_path / "home") as up:
        victim = Victim(up, deploy_all(up))
        load = victim.new_load(rng.randrange(10**6))
        await run_load(load, rng)
        assert up.process is not None
        up.process.kill()
        up.process.wait()
        killed_at = time.monotonic()
        await load.stop()
        while running := processes_naming(str(up.home)):
            assert time.monotonic() - killed_at < NOTHING_RUNS_S_MAX, f"still running: {running}"
            await asyncio.sleep(0.1)
        (up.home / "addresses.json").unlink()
        up.start()
        await until_posted(victim)
        await until_settled(victim)
        records = await asyncio.to_thread(victim.records)
    assert broken_rules(victim.calls, records, engine_counts(victim.instances_dir)) == []
