"""kill -9 of one part of the platform under mixed load: it comes back by itself, and the bill is what was served.

One platform serves all of these tests, each with a project of its own: a test begins when everything answers, and the
next one would not if this one left anything broken behind.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.fault.scenarios.hurt import Place, platform_to_hurt
from tests.fault.scenarios.kills import KILLS
from tests.fault.scenarios.scenario import Scenario, under_load

STRIKES = 3


@pytest_asyncio.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """A platform to be hurt; when it is stopped, nothing of it runs any more."""
    async with platform_to_hurt(tmp_path_factory.mktemp("hurt")) as place:
        yield place


@pytest.mark.parametrize("scenario", KILLS, ids=lambda scenario: scenario.name.replace(" ", "-"))
async def test_a_kill_costs_no_more_than_it_may(scenario: Scenario, place: Place, rng: random.Random) -> None:
    """Load succeeds again, every call is billed by the rules of `check_calls`, every instance by those of `check_lives`,
    the bill is the sum of its records, and nothing of an instance is left running that nobody pays for.
    """
    proof = await under_load(scenario, place, str(rng.random()), STRIKES)
    print(f"{scenario.name}: recovered after {[round(one, 1) for one in proof.recover_s]} s; {proof.log.summary()}")
    assert proof.differences == []
