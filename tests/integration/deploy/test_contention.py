"""Callers, the catalog's events and the reconciler change the same rows at the same time, and lose nothing."""

from __future__ import annotations

import asyncio

import pytest
from modelyard.catalog.v1 import events_pb2 as catalog_events
from modelyard.deploy.v1 import events_pb2

from chassis.events import published_event
from services.deploy.domain.deployments import DeploymentState
from services.deploy.events.consumed import Consumed
from services.deploy.main import ClockBehindInstances, _check_clock
from services.deploy.usecases.deployments import delete_deployment
from tests.clock import START, ManualClock
from tests.integration.deploy.build import ENDPOINT, VERSION, Platform

ROUNDS = 8


async def hear(platform: Platform, sequence: int) -> None:
    event = published_event(
        "catalog",
        "version",
        "lifecycle-changed",
        catalog_events.VersionLifecycleChanged(model_version=VERSION),
        project_uid=None,
        aggregate_uid="version-uid",
        sequence=sequence,
        time=START,
    )
    async with platform.database.unit_of_work() as uow:
        await Consumed(platform.database, platform.reconciler.wanted).lifecycle(uow, event)


async def test_every_change_of_a_deployment_has_a_revision_of_its_own(platform: Platform) -> None:
    """A watch resumes by it, so a revision that two changes share would hide one of them."""
    await platform.add_endpoint()
    await platform.deploy()
    await platform.until_active()
    changes_before = len(await platform.events(events_pb2.DeploymentChanged))
    revision_before = (await platform.deployment()).revision
    for number in range(ROUNDS):
        await asyncio.gather(
            platform.look(settle=False), platform.scale(2 + number % 2), hear(platform, sequence=2 + number)
        )
        platform.provider.answer_all()
    changes = len(await platform.events(events_pb2.DeploymentChanged)) - changes_before
    assert (await platform.deployment()).revision == revision_before + 2 * ROUNDS + changes


async def test_a_deletion_is_never_undone_by_a_look(platform: Platform) -> None:
    """The reconciler decides on what it has locked: once DELETING, a deployment never says ACTIVE again."""
    await platform.add_endpoint()
    for number in range(ROUNDS):
        name = f"blue{number}"
        uid = (await platform.deploy(name)).uid
        await platform.look()
        platform.provider.answer_all()
        await asyncio.gather(
            platform.look(settle=False),
            delete_deployment(platform.database, platform.clock, platform.project_uid, ENDPOINT, name, "", force=True),
        )
        assert (await platform.deployment(uid)).state in (DeploymentState.DELETING, DeploymentState.DELETED)
        await platform.look()
        await platform.look()


@pytest.mark.parametrize(("behind_s", "refused"), [(60, False), (61, True)])
async def test_a_clock_behind_what_is_stored_refuses_to_start(platform: Platform, behind_s: int, refused: bool) -> None:
    """Time that was billed is not billed again; both moments are named."""
    await platform.add_endpoint()
    await platform.deploy()
    platform.clock.advance(100)
    await platform.look()
    await platform.look()
    clock = ManualClock()
    clock.advance(100 - behind_s)
    said = ""
    try:
        await _check_clock(platform.database, clock, 60)
    except ClockBehindInstances as problem:
        said = problem.message
    assert (clock.now().isoformat() in said, platform.clock.now().isoformat() in said) == (refused, refused)
