"""Callers, the catalog's events and the reconciler change the same rows at the same time, and lose nothing."""

from __future__ import annotations

import asyncio

import pytest
from modelyard.deploy.v1 import events_pb2
from sqlalchemy.exc import IntegrityError

from chassis.ids import new_uid
from services.deploy.domain.deployments import DeploymentState
from services.deploy.storage import queries
from services.deploy.storage.tables import EndpointRow
from services.deploy.usecases.deployments import delete_deployment
from services.deploy.usecases.endpoints import delete_endpoint
from tests.integration.deploy.build import ENDPOINT, Platform, hear, news_of_version

ROUNDS = 8


async def test_every_change_of_a_deployment_has_a_revision_of_its_own(platform: Platform) -> None:
    """A watch resumes by it, so a revision that two changes share would hide one of them."""
    await platform.add_endpoint()
    await platform.deploy()
    await platform.until_active()
    changes_before = len(await platform.events(events_pb2.DeploymentChanged))
    revision_before = (await platform.deployment()).revision
    for number in range(ROUNDS):
        await asyncio.gather(
            platform.look(settle=False), platform.scale(2 + number % 2), hear(platform, news_of_version(2 + number))
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


async def test_the_database_itself_keeps_names_unique_among_the_living(platform: Platform) -> None:
    """Whatever a use case forgets to lock; the dead do not count."""
    await platform.add_endpoint()
    await delete_endpoint(platform.database, platform.clock, platform.project_uid, ENDPOINT, "")
    await platform.add_endpoint()
    living = next(row for row in await platform.rows(EndpointRow) if not row.deleted)
    with pytest.raises(IntegrityError):
        async with platform.database.unit_of_work() as uow:
            uow.session.add(EndpointRow(**{**living.model_dump(), "uid": new_uid()}))


async def test_the_newest_stored_instant_is_the_last_that_was_seen(platform: Platform) -> None:
    """A start compares the wall clock with it, so that time that was billed is not billed again."""
    await platform.add_endpoint()
    await platform.deploy()
    await platform.look()
    platform.clock.advance(100)
    await platform.look()
    async with platform.database.reader() as session:
        assert await queries.newest_instance_ms(session) == platform.clock.now_ms()
