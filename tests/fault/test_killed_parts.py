"""kill -9 of one part of the platform under mixed load: it comes back by itself, and the bill is what was served.

One platform serves all of these tests, each with a project of its own: a test begins when everything answers, and the
next one would not if this one left anything broken behind.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from modelyard_client import Modelyard

from embedded.platform import Platform, running_platform
from tests.infra.faults import (
    Part,
    Tenant,
    moment_to_strike,
    recovered,
    strike,
)
from tests.infra.load import End
from tests.infra.up import processes_naming


@pytest_asyncio.fixture(scope="module")
async def own_platform(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    """A platform to be hurt; when it is stopped, nothing of it runs any more."""
    folder = tmp_path_factory.mktemp("hurt")

    def keep(part: str, line: str) -> None:
        with (folder / f"{part}.log").open("a") as log:
            log.write(f"{line}\n")

    async with running_platform(folder / "data", keep) as platform:
        yield platform
    assert processes_naming(str(folder)) == []


@pytest_asyncio.fixture
async def tenant(own_platform: Platform) -> AsyncIterator[Tenant]:
    """A project whose three deployments answer."""
    async with Modelyard.from_file(own_platform.home.addresses) as modelyard:
        yield await Tenant.create(modelyard)


@pytest.mark.parametrize("part", Part, ids=lambda part: part.value.replace(" ", "-"))
async def test_a_kill_costs_no_more_than_it_may(
    part: Part, own_platform: Platform, tenant: Tenant, rng: random.Random
) -> None:
    """Load succeeds again, every call is billed by the rules of `check_calls`, every instance by those of `check_lives`,
    the bill is the sum of its records, and nothing of an instance is left running that nobody pays for.
    """
    async with tenant.load(str(rng.random())).running() as log:
        await moment_to_strike(log, rng)
        fault = await strike(part, own_platform, tenant)
        recovered_s = await recovered(tenant, log, fault)
    await tenant.delete_managed()
    ledger = await tenant.whole_ledger(log)
    refused = [call for call in log.ended(End.REFUSED) if call.plan.valid]
    outage_s = log.outage_s(fault.at_s)
    print(
        f"{part.value}: answered after {outage_s:.1f} s everywhere, recovered after {recovered_s:.1f} s; {len(refused)} right calls refused; {log.summary()}"
    )
    assert await tenant.differences(log, ledger, fault) == []
