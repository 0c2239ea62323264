"""The shared pool, and what inference is told of endpoints."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.catalog.v1 import catalog_pb2, providers_pb2
from modelyard.deploy.v1 import events_pb2

from chassis.events import Event
from services.deploy.compute.interface import LaunchRefused
from services.deploy.domain.deployments import DeploymentState, InstanceState
from services.deploy.domain.errors import DeploymentNotManaged
from services.deploy.storage.tables import PoolRow
from services.deploy.usecases.deployments import Limits, delete_deployment
from services.deploy.usecases.endpoints import delete_endpoint, update_traffic
from tests.clock import START
from tests.integration.deploy.build import (
    ENDPOINT,
    LIMITS,
    SERVERLESS,
    VERSION,
    Neighbourhood,
    Platform,
    hear,
    news_of_version,
    version,
)

RETIRES = START + timedelta(days=30)


async def delete(platform: Platform, endpoint: str = ENDPOINT, *, project_uid: str = "") -> None:
    uid = project_uid or platform.project_uid
    await delete_deployment(platform.database, platform.clock, uid, endpoint, "blue", "", force=True)


async def serverless(platform: Platform) -> None:
    await platform.add_endpoint(kind=SERVERLESS)
    await platform.deploy(kind=SERVERLESS)


def retirement(sequence: int, when: object = RETIRES) -> Event:
    """The catalog says when the version retires, or that it does not."""
    stamp = Timestamp()
    if when is not None:
        stamp.FromDatetime(when)  # type: ignore[arg-type]
    return news_of_version(
        sequence, stage=catalog_pb2.LIFECYCLE_STAGE_LEGACY, retire_time=stamp if when is not None else None
    )


# The pool


async def test_a_pool_starts_when_a_deployment_needs_it(platform: Platform) -> None:
    """And the deployment is ACTIVE when the pool answers."""
    await platform.look()
    assert platform.provider.launched == []
    await serverless(platform)
    await platform.until_active()
    assert len(platform.provider.alive) == 1
    assert (await platform.deployment()).state == DeploymentState.ACTIVE


async def test_a_pool_is_shared_by_projects(platform: Platform) -> None:
    """One warm instance of a version serves everyone."""
    await serverless(platform)
    bakery = await platform.add_project("bakery")
    await platform.add_endpoint(kind=SERVERLESS, project="bakery", project_uid=bakery)
    await platform.deploy(kind=SERVERLESS, project="bakery", project_uid=bakery)
    await platform.until_active()
    assert len(platform.provider.launched) == 1
    targets = [route.deployments[0].targets[0].instance_uid for route in (await platform.routes())[-2:] if route]
    assert targets == platform.provider.launched * 2


async def test_two_first_deployments_make_one_pool(platform: Platform) -> None:
    """Of two projects at once."""
    bakery = await platform.add_project("bakery")
    await platform.add_endpoint(kind=SERVERLESS)
    await platform.add_endpoint(kind=SERVERLESS, project="bakery", project_uid=bakery)
    await asyncio.gather(
        platform.deploy(kind=SERVERLESS),
        platform.deploy(kind=SERVERLESS, project="bakery", project_uid=bakery),
    )
    assert len(await platform.rows(PoolRow)) == 1


async def test_pool_instances_are_nobodys_bill(platform: Platform) -> None:
    """They raise no events from start to end."""
    await serverless(platform)
    await platform.until_active()
    platform.clock.advance(120)
    await platform.look()
    await delete(platform)
    await platform.look()
    platform.clock.advance(300)
    await platform.look()
    await platform.look()
    assert [row.state for row in await platform.instances()] == [InstanceState.RELEASED]
    for message in (events_pb2.InstanceAllocated, events_pb2.InstanceObserved, events_pb2.InstanceReleased):
        assert await platform.events(message) == []


async def test_a_pool_stays_warm_a_while_and_then_ends(platform: Platform) -> None:
    """The next deployment within that time finds it."""
    await serverless(platform)
    await platform.until_active()
    await delete(platform)
    await platform.look()
    platform.clock.advance(299)
    await platform.look()
    assert len(platform.provider.alive) == 1
    platform.clock.advance(1)
    await platform.look()
    assert platform.provider.alive == []


async def test_a_warm_pool_serves_the_next_deployment_at_once(platform: Platform) -> None:
    """And its time to idle begins anew."""
    await serverless(platform)
    await platform.until_active()
    await delete(platform)
    await platform.look()
    platform.clock.advance(200)
    await platform.look()
    await platform.deploy("green", kind=SERVERLESS)
    await platform.look()
    platform.clock.advance(200)
    await platform.look()
    assert len(platform.provider.launched) == len(platform.provider.alive) == 1


async def test_a_serverless_deployment_is_gone_while_the_pool_runs(platform: Platform) -> None:
    """It has no instances of its own to wait for."""
    await serverless(platform)
    await platform.until_active()
    await delete(platform)
    await platform.look()
    assert (await platform.deployment()).state == DeploymentState.DELETED
    assert len(platform.provider.alive) == 1


async def test_a_pool_that_failed_is_tried_again_for_the_next_deployment(platform: Platform) -> None:
    """Also while another deployment still waits for it; both say why until then."""
    await serverless(platform)
    platform.provider.errors["launch"] = LaunchRefused("no room")
    for _ in range(5):
        await platform.look()
    row = await platform.deployment()
    assert (row.state, row.state_detail) == (DeploymentState.FAILED, "no room")
    platform.provider.errors.clear()
    await platform.deploy("green", kind=SERVERLESS)
    await platform.until_active()
    rows = await platform.rows(type(row))
    assert [(row.state, row.state_detail) for row in rows] == [(DeploymentState.ACTIVE, "")] * 2


# Routes


async def test_a_route_is_projected_when_it_changes_and_only_then(platform: Platform) -> None:
    """Looking again says nothing new."""
    await platform.add_endpoint()
    await platform.deploy()
    await platform.until_active()
    count = len(await platform.routes())
    platform.clock.advance(120)
    for _ in range(3):
        await platform.look()
    platform.restarted()
    await platform.look()
    assert len(await platform.routes()) == count


async def test_a_routes_sequence_rises(platform: Platform) -> None:
    """An older value never replaces a newer one."""
    endpoint = await platform.add_endpoint()
    await platform.look()
    await platform.deploy()
    await platform.until_active()
    await update_traffic(platform.database, platform.project_uid, ENDPOINT, {}, "")
    await platform.look()
    projected = await platform.projections("routes")
    assert {key for key, *_ in projected} == {endpoint.uid}
    assert [sequence for _, sequence, _ in projected] == list(range(1, len(projected) + 1))


async def test_a_route_has_only_targets_that_answer(platform: Platform) -> None:
    """With the address and the weight inference needs."""
    await platform.add_endpoint()
    await platform.deploy(count=2)
    await platform.look()
    answering = platform.provider.launched[0]
    platform.provider.answer(answering)
    await platform.look()
    route = (await platform.routes())[-1]
    assert route is not None
    (deployment,) = route.deployments
    assert [target.instance_uid for target in deployment.targets] == [answering]
    assert (deployment.weight, deployment.targets[0].address) == (100, platform.provider.views[answering].address)


async def test_only_serverless_routes_carry_a_price(platform: Platform) -> None:
    """Managed calls are recorded without a rate: their instances are what is billed."""
    await platform.add_endpoint()
    await platform.deploy()
    await platform.add_endpoint("chat", SERVERLESS)
    await platform.deploy(endpoint="chat", kind=SERVERLESS)
    await platform.look()
    prices = {route.endpoint: route.deployments[0].price_version for route in await platform.routes() if route}
    assert prices == {ENDPOINT: "", "chat": "list@1/price"}


async def test_a_target_leaves_its_route_before_it_is_asked_to_end(platform: Platform) -> None:
    """The projection is committed when the provider hears of it."""
    await platform.add_endpoint()
    await platform.deploy()
    await platform.until_active()
    seen: list[int] = []
    terminate = platform.provider.terminate

    async def look_at_the_route(uid: str) -> int | None:
        route = (await platform.routes())[-1]
        assert route is not None
        seen.append(sum(len(deployment.targets) for deployment in route.deployments))
        return await terminate(uid)

    platform.provider.terminate = look_at_the_route  # type: ignore[method-assign]
    await delete(platform)
    await platform.look()
    assert seen == [0]


async def test_an_endpoint_that_is_deleted_takes_its_route_back(platform: Platform) -> None:
    """Once, with a higher sequence."""
    await platform.add_endpoint()
    await platform.deploy()
    await platform.until_active()
    await delete_endpoint(platform.database, platform.clock, platform.project_uid, ENDPOINT, "")
    for _ in range(3):
        await platform.look()
    projected = await platform.projections("routes")
    assert [value for *_, value in projected[-1:]] == [b""]
    assert [sequence for _, sequence, _ in projected] == list(range(1, len(projected) + 1))


# Lifecycle


async def test_a_retirement_travels_in_the_route(platform: Platform) -> None:
    """Inference refuses calls from then on."""
    await serverless(platform)
    await platform.look()
    await hear(platform, retirement(2))
    await platform.look()
    route = (await platform.routes())[-1]
    assert route is not None
    assert route.deployments[0].retire_time.ToDatetime(START.tzinfo) == RETIRES


async def test_a_retirement_that_is_taken_back_leaves_the_route(platform: Platform) -> None:
    """Unset means that no date is set."""
    await serverless(platform)
    await hear(platform, retirement(2))
    await platform.look()
    await hear(platform, retirement(3, None))
    await platform.look()
    route = (await platform.routes())[-1]
    assert route is not None
    assert not route.deployments[0].HasField("retire_time")


async def test_an_older_lifecycle_change_that_comes_late_changes_nothing(platform: Platform) -> None:
    """Neither older than what was heard, nor than the facts the deployment was made from."""
    await serverless(platform)
    await hear(platform, retirement(1))
    assert (await platform.deployment()).retire_time is None
    await hear(platform, retirement(3))
    await hear(platform, retirement(2, None))
    assert (await platform.deployment()).retire_time == RETIRES


# External providers


def a_target(**changes: Any) -> providers_pb2.ProviderTarget:
    facts = {
        "provider": "acme",
        "base_url": "https://api.acme.example/v1",
        "model": "talker-1",
        "key_reference": "acme",
    }
    return providers_pb2.ProviderTarget(**{**facts, **changes})


async def serverless_at_provider(platform: Platform, limits: Limits = LIMITS) -> None:
    """A deployment that an external provider answers for, and its first route."""
    neighbours = Neighbourhood(platform.project_uid, SERVERLESS)
    neighbours.version = version(provider=a_target(), etag="1")
    neighbours.version.ClearField("artifacts")
    neighbours.version.ClearField("serving")
    await platform.add_endpoint(kind=SERVERLESS)
    await platform.deploy(kind=SERVERLESS, neighbours=neighbours, limits=limits)
    await platform.look()


def moves(sequence: int, target: providers_pb2.ProviderTarget) -> Event:
    """The catalog says where the provider answers."""
    return news_of_version(sequence, stage=catalog_pb2.LIFECYCLE_STAGE_GA, provider=target)


async def test_a_providers_model_is_active_with_its_route_and_has_no_instance(platform: Platform) -> None:
    """Also on a platform that has room for none; and it is gone when it is deleted."""
    await serverless_at_provider(platform, limits=replace(LIMITS, instances_max=0))
    assert (await platform.deployment()).state == DeploymentState.ACTIVE
    (route,) = await platform.routes()
    assert route is not None
    (deployed,) = route.deployments
    assert (deployed.provider, list(deployed.targets), deployed.weight) == (a_target(), [], 100)
    assert deployed.price_version == "list@1/price"
    with pytest.raises(DeploymentNotManaged):
        await platform.scale(1)
    await delete(platform)
    await platform.look()
    assert (await platform.deployment()).state == DeploymentState.DELETED
    assert platform.provider.launched == []
    assert await platform.rows(PoolRow) == []


async def test_a_route_follows_where_the_provider_answers(platform: Platform) -> None:
    """An older word changes nothing."""
    await serverless_at_provider(platform)
    moved = a_target(base_url="https://moved.example/v1")
    await hear(platform, moves(2, moved))
    await hear(platform, moves(1, a_target(base_url="https://older.example/v1")))
    await platform.look()
    route = (await platform.routes())[-1]
    assert route is not None
    assert route.deployments[0].provider == moved


async def test_a_deployment_tells_which_version_it_serves(platform: Platform) -> None:
    await serverless_at_provider(platform)
    assert {event.model_version for event in await platform.events(events_pb2.DeploymentChanged)} == {VERSION}
