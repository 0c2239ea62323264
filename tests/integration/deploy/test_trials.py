"""A model is made callable for trials once, kept while it is used, and ended when nobody does."""

from __future__ import annotations

import asyncio

import pytest
from modelyard.billing.v1 import billing_pb2
from modelyard.deploy.v1 import deploy_pb2, events_pb2, trials_pb2
from modelyard.type.v1 import checks_pb2

from chassis.errors import Problem
from services.deploy.domain.deployments import DeploymentState
from services.deploy.domain.errors import ProjectExists, TrialsExhausted
from services.deploy.usecases.acceptance import Answers
from services.deploy.usecases.projects import PLATFORM_PROJECT
from services.deploy.usecases.trials import TrialLimits, end_idle_trials, ensure_trial
from tests.integration.deploy.build import LIMITS, Platform, version

LIMIT = TrialLimits(trials_max=2, idle_s=600)


async def ensure(platform: Platform, number: int = 1, *checks: checks_pb2.Check) -> trials_pb2.Trial:
    wanted = version(name=f"publishers/acme/models/talker/versions/{number}", uid=f"version-{number}")
    answers = Answers(billing_pb2.Quote(), wanted, None, checks)
    return await ensure_trial(platform.database, platform.clock, answers, LIMITS, LIMIT)


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


async def test_what_a_project_may_not_deploy_it_may_not_try(platform: Platform) -> None:
    """The catalog answers for the project that asks: its policy and its licences count."""
    with pytest.raises(Problem) as refused:
        await ensure(platform, 1, checks_pb2.Check(reason="POLICY_REFUSED", message="a rule refuses it"))
    assert refused.value.reason == "POLICY_REFUSED"


async def test_nobody_else_takes_the_platforms_project(platform: Platform) -> None:
    """Its name is kept for it."""
    with pytest.raises(ProjectExists, match="platform's own"):
        await platform.add_project(PLATFORM_PROJECT)
