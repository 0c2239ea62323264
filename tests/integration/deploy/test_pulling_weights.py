"""Between the allocation of an instance and its launch its weights come, visibly, and may be given up."""

from __future__ import annotations

from pathlib import Path

import pytest
from modelyard.deploy.v1 import events_pb2

from services.deploy.domain.deployments import DeploymentState
from services.deploy.storage.tables import DeploymentRow
from services.deploy.usecases.deployments import delete_deployment
from services.deploy.weights.interface import WeightsInterrupted, WeightsRefused
from tests.infra.instances import wait_until
from tests.integration.deploy.build import DEPLOYMENT, ENDPOINT, FILE, MANAGED, WEIGHTS, Neighbourhood, Platform


@pytest.fixture
async def pulling(platform: Platform) -> Platform:
    """A deployment whose weights have come by eight of twenty bytes."""
    platform.weights.gate.clear()
    platform.weights.free_pieces = 2
    await platform.add_endpoint()
    await platform.deploy()
    await platform.look(settle=False)
    await wait_until(lambda: platform.cache.received_bytes([FILE]) == 8)
    return platform


async def test_it_is_launched_with_them(platform: Platform) -> None:
    """The provider gets a file that is whole and checked."""
    await platform.add_endpoint()
    await platform.deploy()
    await platform.look()
    (spec,) = platform.provider.specs
    assert {name: Path(path).read_bytes() for name, path in spec.artifacts.items()} == {FILE.name: WEIGHTS}


async def test_the_deployment_says_how_far_they_are(pulling: Platform) -> None:
    """And nothing is launched meanwhile."""
    await pulling.look(settle=False)
    deployment = await pulling.deployment()
    assert (deployment.state, deployment.state_detail) == (DeploymentState.CREATING, "pulling weights: 0 of 0 MB")
    assert pulling.provider.launched == []


async def test_a_crash_costs_only_what_had_not_come(pulling: Platform) -> None:
    """The next process asks for the rest of the file and launches the same instance."""
    (row,) = await pulling.instances()
    await pulling.reconciler.close()
    pulling.weights.gate.set()
    pulling.restarted()
    await pulling.look()
    assert pulling.provider.launched == [row.uid]
    assert [offset for _, offset in pulling.weights.asked] == [0, 8]


async def test_deleting_gives_the_pull_up(pulling: Platform) -> None:
    """Nobody waits for weights that nobody wants; the instance never started and costs nothing."""
    await delete_deployment(pulling.database, pulling.clock, pulling.project_uid, ENDPOINT, DEPLOYMENT, "", force=True)
    for _ in range(3):
        await pulling.look()
    assert (await pulling.deployment()).state == DeploymentState.DELETED
    (released,) = await pulling.releases()
    (allocated,) = await pulling.events(events_pb2.InstanceAllocated)
    assert released.release_time == allocated.allocate_time
    assert pulling.provider.launched == []


@pytest.mark.parametrize("why", [WeightsInterrupted("the line is dead"), WeightsRefused("not given out")])
async def test_weights_that_do_not_come_fail_the_start(platform: Platform, why: Exception) -> None:
    """As often as starts may fail; the deployment says why."""
    platform.weights.faults += [(0, why)] * 10
    await platform.add_endpoint()
    await platform.deploy()
    for _ in range(5):
        await platform.look()
    deployment = await platform.deployment()
    assert (deployment.state, deployment.state_detail) == (DeploymentState.FAILED, str(why))
    assert platform.provider.launched == []


async def test_weights_of_living_instances_stay(platform: Platform) -> None:
    """Room for others is made of what no instance uses; here there is none."""
    await platform.add_endpoint()
    await platform.deploy()
    await platform.until_active()
    other = platform.weights.add(b"twenty more bytes...", "weights")
    neighbours = Neighbourhood(platform.project_uid, MANAGED)
    neighbours.version.artifacts[0].sha256 = other.sha256
    await platform.deploy("green", neighbours=neighbours)
    await platform.look()
    await platform.look()
    details = {row.name: row.state_detail for row in await platform.rows(DeploymentRow)}
    assert details[DEPLOYMENT] == ""
    assert "do not fit" in details["green"]
