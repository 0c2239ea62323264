"""kill -9 of one part of the platform under mixed load: it comes back by itself, and the bill is what was served.

One platform serves all of these tests, each with a project of its own: a test begins when everything answers, and the
next one would not if this one left anything broken behind.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from embedded.platform import Platform
from tests.infra.hurt import platform_to_hurt
from tests.infra.kills import Part, kill_under_load

STRIKES = 3


@pytest_asyncio.fixture(scope="module")
async def own_platform(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    """A platform to be hurt; when it is stopped, nothing of it runs any more."""
    async with platform_to_hurt(tmp_path_factory.mktemp("hurt")) as platform:
        yield platform


@pytest.mark.parametrize("part", Part, ids=lambda part: part.value.replace(" ", "-"))
async def test_a_kill_costs_no_more_than_it_may(part: Part, own_platform: Platform, rng: random.Random) -> None:
    """Load succeeds again, every call is billed by the rules of `check_calls`, every instance by those of `check_lives`,
    the bill is the sum of its records, and nothing of an instance is left running that nobody pays for.
    """
    proof = await kill_under_load(part, own_platform, str(rng.random()), STRIKES)
    print(f"{part.value}: recovered after {[round(one, 1) for one in proof.recover_s]} s; {proof.log.summary()}")
    assert proof.differences == []
