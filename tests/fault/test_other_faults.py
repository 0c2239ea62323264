"""What goes wrong besides kills, under the same mixed load and with the same witnesses as a kill."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.fault.scenarios.absences import ABSENCES, NATS_AWAY_BRIEFLY
from tests.fault.scenarios.clock_steps import CLOCK_STEPS
from tests.fault.scenarios.deliveries import DELIVERIES
from tests.fault.scenarios.hurt import Kind, Place, platform_to_hurt
from tests.fault.scenarios.scenario import Scenario, under_load

SCENARIOS = [NATS_AWAY_BRIEFLY, *ABSENCES[1:], *CLOCK_STEPS, *DELIVERIES]


def of_kind(kind: Kind) -> pytest.MarkDecorator:
    """Every scenario that needs such a platform."""
    chosen = [scenario for scenario in SCENARIOS if scenario.kind is kind]
    return pytest.mark.parametrize("scenario", chosen, ids=lambda scenario: scenario.name.replace(" ", "-"))


@pytest_asyncio.fixture(scope="module")
async def plain(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """A platform as `modelyard up` starts it."""
    async with platform_to_hurt(tmp_path_factory.mktemp("plain")) as place:
        yield place


@pytest_asyncio.fixture(scope="module")
async def on_postgresql(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """A platform whose billing is on PostgreSQL."""
    async with platform_to_hurt(tmp_path_factory.mktemp("postgresql"), Kind.POSTGRESQL) as place:
        yield place


@pytest_asyncio.fixture(scope="module")
async def with_steppable_clock(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """A platform whose wall clock can be stepped."""
    async with platform_to_hurt(tmp_path_factory.mktemp("clock"), Kind.STEPPABLE_CLOCK) as place:
        yield place


@of_kind(Kind.PLAIN)
async def test_on_a_plain_platform(scenario: Scenario, plain: Place, rng: random.Random) -> None:
    """It costs no more than it may."""
    await assert_proved(scenario, plain, rng)


@of_kind(Kind.POSTGRESQL)
async def test_on_postgresql(scenario: Scenario, on_postgresql: Place, rng: random.Random) -> None:
    """It costs no more than it may."""
    await assert_proved(scenario, on_postgresql, rng)


@of_kind(Kind.STEPPABLE_CLOCK)
async def test_on_a_stepped_clock(scenario: Scenario, with_steppable_clock: Place, rng: random.Random) -> None:
    """It costs no more than it may."""
    await assert_proved(scenario, with_steppable_clock, rng)


async def assert_proved(scenario: Scenario, place: Place, rng: random.Random) -> None:
    """Play it, and let the witnesses say what differs."""
    proof = await under_load(scenario, place, str(rng.random()))
    print(f"{scenario.name}: recovered after {[round(one, 1) for one in proof.recover_s]} s; {proof.log.summary()}")
    assert proof.differences == []
