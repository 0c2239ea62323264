"""Whether a deployment would be accepted: the catalog's answers and deploy's own, all at once, and nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from modelyard.catalog.v1 import catalog_pb2
from modelyard.deploy.v1 import deploy_pb2

from chassis.errors import NotFound
from services.deploy.domain.errors import QuotaExceeded
from services.deploy.storage.tables import DeploymentRow, EndpointRow, PoolRow
from services.deploy.usecases.acceptance import Limits
from services.deploy.usecases.can_deploy import can_deploy
from tests.integration.deploy.build import (
    ENDPOINT,
    LIMITS,
    MANAGED,
    PROJECT,
    SERVERLESS,
    TYPE,
    Neighbourhood,
    Platform,
    hear,
)
from tests.integration.deploy.test_news_of_versions import news


async def ask(
    platform: Platform,
    *,
    kind: int = MANAGED,
    endpoint: str = ENDPOINT,
    change: Callable[[Neighbourhood], None] | None = None,
    quote_problem: Any = None,
    limits: Limits = LIMITS,
    **asked: Any,
) -> dict[str, str]:
    """The reason of each refusal by its subject; nothing where it would be accepted."""
    neighbours = Neighbourhood(platform.project_uid, kind)
    if change is not None:
        change(neighbours)
    request = deploy_pb2.CreateDeploymentRequest(
        deployment_id="blue",
        model_version=neighbours.version.name,
        quote=neighbours.quote.name,
        instance_type=TYPE if kind == MANAGED else "",
        instance_count=1 if kind == MANAGED else 0,
    )
    for name, value in asked.items():
        setattr(request, name, value)
    async with platform.database.reader() as session:
        checks = await can_deploy(
            session,
            platform.clock.now(),
            project_uid=platform.project_uid,
            project=PROJECT,
            endpoint=endpoint,
            request=request,
            answers=neighbours.answers(),
            quote_problem=quote_problem,
            limits=limits,
            endpoints_max=1,
        )
    assert all(check.message for check in checks)
    return {check.subject: check.reason for check in checks if not check.passed}


@pytest.mark.parametrize("kind", [MANAGED, SERVERLESS])
async def test_what_would_be_accepted_is_accepted(platform: Platform, kind: int) -> None:
    """No check refuses, nothing is kept, and creating it then succeeds."""
    await platform.add_endpoint(kind=kind)
    assert await ask(platform, kind=kind) == {}
    assert [await platform.rows(row) for row in (DeploymentRow, PoolRow)] == [[], []]
    await platform.deploy(kind=kind)


async def test_an_endpoint_that_would_be_made(platform: Platform) -> None:
    """It need not be there; its name and the project's quota are looked at."""
    assert await ask(platform) == {}
    assert await ask(platform, endpoint="No") == {"endpoint": "INVALID_ARGUMENT"}
    await platform.add_endpoint("other")
    assert await ask(platform) == {"endpoint": "QUOTA_EXCEEDED"}
    assert len(await platform.rows(EndpointRow)) == 1


async def test_every_reason_at_once(platform: Platform) -> None:
    """Nobody mends one thing to learn of the next."""
    await platform.add_endpoint()
    for name in ("blue", "green", "red"):
        await platform.deploy(name)
    await hear(platform, news(2, catalog_pb2.LIFECYCLE_STAGE_DEPRECATED))

    def change(neighbours: Neighbourhood) -> None:
        neighbours.refuse("POLICY_REFUSED")
        neighbours.quote.expire_time.FromDatetime(platform.clock.now())

    assert await ask(platform, change=change, instance_count=50) == {
        "something": "POLICY_REFUSED",
        "quota": "QUOTA_EXCEEDED",
        "capacity": "CAPACITY_EXCEEDED",
        "news": "MODEL_DEPRECATED",
        "name": "DEPLOYMENT_EXISTS",
        "quote": "QUOTE_EXPIRED",
    }


async def test_hardware_and_names(platform: Platform) -> None:
    """What CreateDeployment would call a mistake is told in the same way."""
    await platform.add_endpoint()
    assert await ask(platform, instance_count=51) == {
        "hardware": "INSTANCE_COUNT_INVALID",
        "capacity": "CAPACITY_EXCEEDED",
    }
    assert await ask(platform, deployment_id="No") == {"name": "INVALID_ARGUMENT"}
    assert await ask(platform, kind=SERVERLESS) == {"hardware": "INVALID_ARGUMENT"}


async def test_what_is_not_asked_is_left_out(platform: Platform) -> None:
    """Without a name and a quote only the model, its hardware and the room count."""
    assert await ask(platform, deployment_id="", quote="") == {}


async def test_a_quote_that_billing_does_not_know(platform: Platform) -> None:
    """Its refusal is one of the answers."""
    assert await ask(platform, quote_problem=NotFound("no such quote")) == {"quote": "NOT_FOUND"}


async def test_a_pool_that_runs_needs_no_more_room(platform: Platform) -> None:
    """A second deployment of a version shares the instance of the first."""
    await platform.add_endpoint(kind=SERVERLESS)
    await platform.deploy(kind=SERVERLESS)
    assert await ask(platform, kind=SERVERLESS, deployment_id="green") == {}


async def test_own_models_on_the_shared_pool_are_few(platform: Platform) -> None:
    """Nobody else's calls share the memory they hold; the same version again shares its own pool."""
    limits = replace(LIMITS, own_pools_per_project_max=1)
    await platform.add_endpoint(kind=SERVERLESS)
    await platform.deploy(kind=SERVERLESS, neighbours=own(platform, "1"), limits=limits)

    def second(neighbours: Neighbourhood) -> None:
        name_own(neighbours, "2")

    refusals = await ask(platform, kind=SERVERLESS, deployment_id="green", change=second, limits=limits)
    assert refusals == {"shared pool": "QUOTA_EXCEEDED"}
    with pytest.raises(QuotaExceeded, match="1 of the project's own models are on the shared pool; 1 are allowed"):
        await platform.deploy("green", kind=SERVERLESS, neighbours=own(platform, "2"), limits=limits)
    await platform.deploy("green", kind=SERVERLESS, neighbours=own(platform, "1"), limits=limits)
    # What everybody may call does not count.
    await platform.deploy("red", kind=SERVERLESS, limits=limits)


def own(platform: Platform, version: str) -> Neighbourhood:
    neighbours = Neighbourhood(platform.project_uid, SERVERLESS)
    name_own(neighbours, version)
    return neighbours


def name_own(neighbours: Neighbourhood, version: str) -> None:
    """Let what is deployed be a version of a model of the project's own."""
    name = f"projects/{PROJECT}/models/talker/versions/{version}"
    neighbours.version.name = neighbours.quote.model_version = name
    neighbours.version.uid = f"own-{version}"
