"""One round: a tenant under mixed load, something that goes wrong, and the proof of the tenant's bill."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from modelyard_client import Modelyard

from tests.fault.scenarios.hurt import Kind, Place
from tests.infra.load import ClientLog
from tests.infra.tenant import READY_S_MAX, Proof, Tenant, until
from tests.infra.witnesses import Fault, Ledger

# Pieces of text that come before the scaling of a strike, and again before the strike: streams are under way, every
# client is at another point, and the scaling has gone some way.
PIECES_BEFORE = (2, 20)
# Where within one of the journal's intervals a fault strikes.
PHASE_S_MAX = 0.05


@dataclass
class Round:
    """What a scenario works with, and what it notes.

    Attributes:
        rng: Decides when it strikes, and what.
        strikes: How often a part is killed.
        faults: What went wrong, in order.
        recover_s: Seconds from each until the platform had recovered; one entry a strike.
        differences: What the scenario itself found wrong, a sentence each.
        expected: Differences that the witnesses must find, each.
        afterwards: Asked for more differences when the ledger is whole.
    """

    place: Place
    tenant: Tenant
    log: ClientLog
    rng: random.Random
    strikes: int
    faults: list[Fault] = field(default_factory=list)
    recover_s: list[float] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    afterwards: list[Callable[[Ledger], Awaitable[list[str]]]] = field(default_factory=list)

    def goes_wrong(self, what: str) -> Fault:
        """Note something that goes wrong now, of which no engine dies."""
        self.faults.append(Fault(what, time.monotonic(), time.time_ns() // 1_000_000))
        return self.faults[-1]

    async def pieces_come(self) -> None:
        """Wait until a seeded number of pieces has come, and a seeded moment passed."""
        pieces = self.log.pieces_count + self.rng.randint(*PIECES_BEFORE)
        await self.log.until(lambda: self.log.pieces_count >= pieces, f"{pieces} pieces come", s_max=READY_S_MAX)
        await asyncio.sleep(self.rng.uniform(0, PHASE_S_MAX))

    async def scale(self, number: int) -> None:
        """Scale the managed deployment from 1 to 2 instances, or back, before strike `number`, at a seeded moment."""
        await self.pieces_come()
        await self.tenant.scale(1 if number % 2 else 2)
        await self.pieces_come()

    async def recovered(self, since_s: float) -> None:
        """Wait until the platform has recovered and nothing is missing; note how long it took."""
        self.recover_s.append(await self.tenant.recovered(self.log, since_s))
        await until(self.tenant.answers, f"{self.tenant.name} has its instances", s_max=READY_S_MAX)


@dataclass(frozen=True)
class Scenario:
    """Something that goes wrong, on a platform of some kind."""

    name: str
    cause: Callable[[Round], Awaitable[None]]
    kind: Kind = Kind.PLAIN


async def under_load(scenario: Scenario, place: Place, seed: str, strikes: int = 1) -> Proof:
    """Play a scenario under the load of one new tenant, and prove the tenant's bill.

    Raises:
        AssertionError: something did not recover in time.
    """
    async with Modelyard.from_file(place.platform.home.addresses) as modelyard:
        tenant = await Tenant.create(modelyard)
        async with tenant.load(seed).running() as log:
            await tenant.steady(log, 0.0)
            played = Round(place, tenant, log, random.Random(seed), strikes)
            await scenario.cause(played)
            await tenant.steady(log, played.faults[-1].at_s)
        proof = await tenant.prove(log, played.faults, played.recover_s)
        more = [one for check in played.afterwards for one in await check(proof.ledger)]
        differences = [*proof.differences, *played.differences, *more]
        missing = [f"nobody says: {one}" for one in played.expected if one not in differences]
        return replace(proof, differences=[one for one in differences if one not in played.expected] + missing)
