"""kill -9 of one part of the platform, again and again while one tenant is under load."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from enum import Enum

from modelyard_client import Modelyard

from embedded.platform import Platform
from tests.infra.load import ClientLog
from tests.infra.tenant import READY_S_MAX, Proof, Tenant, until
from tests.infra.witnesses import Fault, instance_owners, instance_processes, read_lives

TEXT_ENGINE = "llamacpp"
POOL = "pool"
# Pieces of text that come before the scaling of a strike, and again before the strike: streams are under way, every
# client is at another point, and the scaling has gone some way.
PIECES_BEFORE = (2, 20)
REPLACED_S_MAX = 30.0
# Where within one of the journal's intervals a fault strikes.
PHASE_S_MAX = 0.05


class Part(Enum):
    """What is killed. Triton and its stub are those of the shared pool or the tenant's own, as the seed has it."""

    CATALOG = "catalog"
    DEPLOY = "deploy"
    BILLING = "billing"
    INFERENCE = "inference"
    NATS = "nats"
    TRITON = "triton"
    STUB = "stub"
    MANAGED_KEEPER = "managed keeper"


SERVICES = (Part.CATALOG, Part.DEPLOY, Part.BILLING, Part.INFERENCE, Part.NATS)
_ROLES = {Part.TRITON: "triton", Part.STUB: "stub", Part.MANAGED_KEEPER: "keeper"}


async def kill_under_load(part: Part, platform: Platform, seed: str, strikes: int) -> Proof:
    """Kill a part several times under the load of one new tenant, each time once it has recovered; then prove all.

    The managed deployment is scaled from 1 to 2 instances or back before every strike.

    Raises:
        AssertionError: something did not recover in time.
    """
    rng = random.Random(seed)
    faults: list[Fault] = []
    recover_s: list[float] = []
    async with Modelyard.from_file(platform.home.addresses) as modelyard:
        tenant = await Tenant.create(modelyard)
        async with tenant.load(seed).running() as log:
            await tenant.steady(log, 0.0)
            for number in range(strikes):
                await pieces_come(log, rng)
                await tenant.scale(1 if number % 2 else 2)
                await pieces_come(log, rng)
                faults.append(await strike(part, platform, tenant, rng))
                recover_s.append(await tenant.recovered(log, faults[-1]))
                await until(tenant.answers, f"{tenant.name} has its instances", s_max=READY_S_MAX)
            await tenant.steady(log, faults[-1].at_s)
        return await tenant.prove(log, faults, recover_s)


async def pieces_come(log: ClientLog, rng: random.Random) -> None:
    """Wait until a seeded number of pieces has come, and a seeded moment passed."""
    pieces = log.pieces_count + rng.randint(*PIECES_BEFORE)
    await log.until(lambda: log.pieces_count >= pieces, f"{pieces} pieces come", s_max=READY_S_MAX)
    await asyncio.sleep(rng.uniform(0, PHASE_S_MAX))


async def strike(part: Part, platform: Platform, tenant: Tenant, rng: random.Random) -> Fault:
    """Kill a part and, where it is the supervisor's child, see it replaced."""
    if part not in SERVICES:
        return await _strike_instance(part, tenant, rng)
    child = platform.children[part.value]
    assert child.process is not None
    killed = child.process.pid
    fault = _kill(part, killed)

    async def replaced() -> bool:
        is_new = child.process is not None and child.process.pid != killed
        return is_new and (child.is_ready or child.ready_file is None)

    await until(replaced, f"{part.value} is started again", s_max=REPLACED_S_MAX)
    return fault


async def _strike_instance(part: Part, tenant: Tenant, rng: random.Random) -> Fault:
    """Kill a process of a text instance; another one where scaling has just ended the one that was chosen."""
    owner = tenant.managed if part is Part.MANAGED_KEEPER else rng.choice((POOL, tenant.managed))
    while True:
        owners = await instance_owners(tenant.modelyard)
        lives = read_lives(tenant.instances_dir)
        victims = [
            process
            for process in instance_processes(tenant.data_dir)
            if process.role == _ROLES[part]
            and owners.get(process.instance_uid) == owner
            and lives[process.instance_uid].engine == TEXT_ENGINE
        ]
        victim = rng.choice(sorted(victims, key=lambda process: process.instance_uid))
        keepers = frozenset({victim.instance_uid}) if part is Part.MANAGED_KEEPER else frozenset()
        try:
            return _kill(part, victim.pid, keepers)
        except ProcessLookupError:
            continue


def _kill(part: Part, pid: int, keepers: frozenset[str] = frozenset()) -> Fault:
    """kill -9, now."""
    at_s = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    engine_lost = part in (Part.TRITON, Part.STUB, Part.MANAGED_KEEPER)
    return Fault(part.value, at_s, time.time_ns() // 1_000_000, engine_lost, keepers)
