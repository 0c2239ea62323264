"""kill -9 of one part of the platform, again and again while one tenant is under load."""

from __future__ import annotations

import os
import random
import signal
import time
from enum import Enum
from functools import partial

from embedded.platform import Platform
from tests.fault.scenarios.scenario import Round, Scenario
from tests.infra.tenant import Tenant, until
from tests.infra.witnesses import Fault, instance_owners, instance_processes, read_lives

TEXT_ENGINE = "llamacpp"
POOL = "pool"
REPLACED_S_MAX = 30.0


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


async def kill(part: Part, played: Round) -> None:
    """Kill a part several times, each time once it has recovered."""
    for number in range(played.strikes):
        await played.scale(number)
        fault = await strike(part, played.place.platform, played.tenant, played.rng)
        played.faults.append(fault)
        await played.recovered(fault.at_s)


KILLS = [Scenario(part.value, partial(kill, part)) for part in Part]
