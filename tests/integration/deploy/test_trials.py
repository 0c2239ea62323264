"""A model is made callable for trials once, kept while it is used, and ended when nobody does."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.catalog.v1 import catalog_pb2
from modelyard.deploy.v1 import deploy_pb2, events_pb2, trials_pb2

from services.deploy.domain.deployments import DeploymentState
from services.deploy.domain.errors import ProjectExists, TrialsExhausted, VersionDeprecated
from services.deploy.usecases.projects import PLATFORM_PROJECT
from services.deploy.usecases.trials import TrialLimits, end_idle_trials, ensure_trial
from tests.conftest import DatabaseFactory
from tests.integration.deploy.build import LIMITS, Platform, platform_with_project, version

LIMIT = TrialLimits(trials_max=2, idle_s=600)


@pytest.fixture
async def platform(make_database: DatabaseFactory) -> Platform:
    return await platform_with_project(make_database)


async def ensure(platform: Platform, number: int = 1, **facts: object) -> trials_pb2.Trial:
    wanted = version(name=f"publishers/acme/models/talker/versions/{number}", **facts)
    return await ensure_trial(platform.database, platform.clock, wanted, LIMITS, LIMIT)


async def test_a_model_becomes_callable(platform: Platform) -> None:
    """Behind a route of the platform's own project, without a price."""
    asked = await ensure(platform)
    await platform.until_active()
    again = await ensure(platform)
    assert [asked.state, again.state] == [deploy_pb2.DEPLOYMENT_STATE_CREATING, deploy_pb2.DEPLOYMENT_STATE_ACTIVE]
    route = (await platform.routes())[-1]
    assert route is not None
    assert (route.project_uid, route.project, route.endpoint) == (asked.project_uid, PLATFORM_PROJECT, asked.endpoint)
    (deployment,) = route.deployments
    assert (deployment.price_version, len(deployment.targets)) == ("", 1)
    assert await platform.events(events_pb2.InstanceAllocated) == []


async def test_who_asks_at_once_shares_one(platform: Platform) -> None:
    """One endpoint, one deployment, one instance."""
    asked = await asyncio.gather(*(ensure(platform) for _ in range(4)))
    assert len({trial.endpoint for trial in asked}) == 1
    await platform.until_active()
    assert len(await platform.instances()) == 1


async def test_one_that_nobody_keeps_ends(platform: Platform) -> None:
    """Not before its time, counted from the last use."""
    await ensure(platform)
    platform.clock.advance(LIMIT.idle_s - 1)
    await ensure(platform)
    platform.clock.advance(LIMIT.idle_s - 1)
    assert await end_idle_trials(platform.database, platform.clock, LIMIT.idle_s) == 0
    platform.clock.advance(1)
    assert await end_idle_trials(platform.database, platform.clock, LIMIT.idle_s) == 1
    await platform.look()
    assert (await platform.deployment()).state == DeploymentState.DELETED
    assert await end_idle_trials(platform.database, platform.clock, LIMIT.idle_s) == 0


async def test_the_one_unused_longest_makes_room(platform: Platform) -> None:
    """Unless it was used a moment ago: then the new one is told to wait."""
    await ensure(platform, 1)
    await ensure(platform, 2)
    with pytest.raises(TrialsExhausted, match="2 are allowed") as refused:
        await ensure(platform, 3)
    platform.clock.advance(refused.value.retry_after_s or 0)
    await ensure(platform, 2)
    await ensure(platform, 3)
    wanted = [row.model_version[-1] for row in await platform.rows_of_trials()]
    assert sorted(wanted) == ["2", "3"]


async def test_a_version_that_takes_no_deployments_takes_no_trials(platform: Platform) -> None:
    """By the catalog's stage."""
    ended = Timestamp()
    ended.FromDatetime(platform.clock.now() + timedelta(days=1))
    with pytest.raises(VersionDeprecated):
        await ensure(platform, stage=catalog_pb2.LIFECYCLE_STAGE_DEPRECATED, retire_time=ended)


async def test_nobody_else_takes_the_platforms_project(platform: Platform) -> None:
    """Its name is kept for it."""
    with pytest.raises(ProjectExists, match="platform's own"):
        await platform.add_project(PLATFORM_PROJECT)
