"""What deploy shows: lists and their pages, watches, logs, scopes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from modelyard.deploy.v1 import deploy_pb2
from sqlalchemy import event

from chassis.access import Caller
from chassis.access.caller import CallerKind, set_current_caller
from chassis.database import Database
from chassis.errors import InvalidArgument, PageTokenInvalid
from chassis.paging import page_token_encode
from services.deploy.domain.errors import DeploymentNotFound
from services.deploy.rpc.deployments import DeployServicer
from services.deploy.rpc.projects import ProjectServicer
from services.deploy.usecases.endpoints import delete_endpoint
from tests.integration.deploy.build import ANN, ENDPOINT, LIMITS, PROJECT, SERVERLESS, Platform

ALL = f"projects/{PROJECT}/endpoints/-"
BLUE = f"projects/{PROJECT}/endpoints/{ENDPOINT}/deployments/blue"
Lister = Callable[[str], Awaitable[Any]]


@pytest.fixture
def deploying(platform: Platform) -> DeployServicer:
    set_current_caller(Caller(ANN, CallerKind.USER, project_uid=platform.project_uid, project=PROJECT, role=6))
    # Nothing here asks billing or the catalog.
    neighbours: Any = None
    return DeployServicer(
        platform.database,
        platform.clock,
        platform.provider,
        platform.reconciler,
        neighbours,
        LIMITS,
        endpoints_max=5,
    )


@pytest.fixture
def administering(platform: Platform, deploying: DeployServicer) -> ProjectServicer:
    return ProjectServicer(platform.database, platform.clock, platform.reconciler.wanted)


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """Every statement the database's readers execute in the block."""
    executed: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        executed.append(statement)

    event.listen(database._readers.sync_engine, "before_cursor_execute", note)
    try:
        yield executed
    finally:
        event.remove(database._readers.sync_engine, "before_cursor_execute", note)


async def pages(ask: Lister, field: str) -> list[list[str]]:
    """The names on each page, from the first to the last."""
    found, token = [], ""
    while True:
        page = await ask(token)
        found.append([item.name for item in getattr(page, field)])
        if not (token := page.next_page_token):
            return found


async def test_endpoints_are_listed_in_pages(platform: Platform, deploying: DeployServicer) -> None:
    """By name; the last page that is full has no token."""
    for name in ("cat", "ant", "dog", "bee"):
        await platform.add_endpoint(name)

    async def ask(token: str) -> Any:
        return await deploying.ListEndpoints(deploy_pb2.ListEndpointsRequest(page_size=2, page_token=token), None)

    prefix = f"projects/{PROJECT}/endpoints"
    assert await pages(ask, "endpoints") == [[f"{prefix}/ant", f"{prefix}/bee"], [f"{prefix}/cat", f"{prefix}/dog"]]


async def test_deployments_of_one_name_are_all_listed(platform: Platform, deploying: DeployServicer) -> None:
    """One that is ending behind a deleted endpoint, and the one behind its namesake, fall on two pages."""
    await platform.add_endpoint()
    await platform.deploy()
    await platform.until_active()
    await delete_endpoint(platform.database, platform.clock, platform.project_uid, ENDPOINT, "")
    await platform.add_endpoint()
    await platform.deploy()

    async def ask(token: str) -> Any:
        request = deploy_pb2.ListDeploymentsRequest(parent=ALL, page_size=1, page_token=token)
        return await deploying.ListDeployments(request, None)

    assert await pages(ask, "deployments") == [[BLUE], [BLUE]]


async def test_listing_deployments_takes_as_many_queries_for_many_as_for_one(
    platform: Platform, deploying: DeployServicer
) -> None:
    """Their instances come in one query, those of pools in another."""
    await platform.add_endpoint()
    await platform.add_endpoint("chat", SERVERLESS)
    counts = []
    for name in ("one", "two", "three"):
        await platform.deploy(name)
        await platform.deploy(name, endpoint="chat", kind=SERVERLESS)
        with statements(platform.database) as executed:
            await deploying.ListDeployments(deploy_pb2.ListDeploymentsRequest(parent=ALL), None)
        counts.append(len(executed))
    assert counts[0] == counts[-1]


async def test_a_listed_deployment_shows_what_serves_it(platform: Platform, deploying: DeployServicer) -> None:
    """Its own instances, or how many of the pool answer."""
    await platform.add_endpoint()
    await platform.add_endpoint("chat", SERVERLESS)
    await platform.deploy(count=2)
    await platform.deploy(endpoint="chat", kind=SERVERLESS)
    await platform.until_active()
    answer = await deploying.ListDeployments(deploy_pb2.ListDeploymentsRequest(parent=ALL), None)
    shown = {found.name.split("/")[3]: found for found in answer.deployments}
    assert (len(shown[ENDPOINT].instances), shown[ENDPOINT].ready_instance_count) == (2, 2)
    assert (len(shown["chat"].instances), shown["chat"].ready_instance_count) == (0, 1)


async def test_keys_are_listed_newest_first_in_pages_that_stand(
    platform: Platform, administering: ProjectServicer
) -> None:
    """A key that is made meanwhile shifts no page."""

    async def make() -> str:
        platform.clock.advance(1)
        answer = await administering.CreateApiKey(deploy_pb2.CreateApiKeyRequest(), None)
        return answer.api_key.name

    made = [await make() for _ in range(3)]
    request = deploy_pb2.ListApiKeysRequest(page_size=2)
    first = await administering.ListApiKeys(request, None)
    await make()
    request.page_token = first.next_page_token
    second = await administering.ListApiKeys(request, None)
    assert [key.name for key in (*first.api_keys, *second.api_keys)] == list(reversed(made))
    assert second.next_page_token == ""


async def test_keys_of_one_moment_are_all_listed(platform: Platform, administering: ProjectServicer) -> None:
    """The id decides between them."""
    made = {(await administering.CreateApiKey(deploy_pb2.CreateApiKeyRequest(), None)).api_key.name for _ in range(3)}

    async def ask(token: str) -> Any:
        return await administering.ListApiKeys(deploy_pb2.ListApiKeysRequest(page_size=1, page_token=token), None)

    found = await pages(ask, "api_keys")
    assert {name for page in found for name in page} == made
    assert len(found) == 3


async def test_a_key_of_a_deleted_endpoint_does_not_look_like_one_for_all(
    platform: Platform, administering: ProjectServicer
) -> None:
    """No scopes would mean every endpoint; the uid stands where the name was."""
    endpoint = await platform.add_endpoint()
    key = (await administering.CreateApiKey(deploy_pb2.CreateApiKeyRequest(endpoints=[ENDPOINT]), None)).api_key
    await delete_endpoint(platform.database, platform.clock, platform.project_uid, ENDPOINT, "")
    (listed,) = (await administering.ListApiKeys(deploy_pb2.ListApiKeysRequest(), None)).api_keys
    revoked = await administering.RevokeApiKey(deploy_pb2.RevokeApiKeyRequest(name=key.name), None)
    assert (list(key.endpoints), list(listed.endpoints), list(revoked.endpoints)) == (
        [ENDPOINT],
        [endpoint.uid],
        [endpoint.uid],
    )


async def test_projects_are_listed_to_their_members(platform: Platform, administering: ProjectServicer) -> None:
    """Others' projects fill no page."""
    for name in ("ant", "bee", "cat", "dog"):
        await platform.add_project(name)
    set_current_caller(Caller("user:bob", CallerKind.USER))
    assert (await administering.ListProjects(deploy_pb2.ListProjectsRequest(page_size=2), None)).projects == []
    set_current_caller(Caller(ANN, CallerKind.USER))

    async def ask(token: str) -> Any:
        return await administering.ListProjects(deploy_pb2.ListProjectsRequest(page_size=2, page_token=token), None)

    assert [len(page) for page in await pages(ask, "projects")] == [2, 2, 1]


@pytest.mark.parametrize("position", [[], [7], ["a", "b", "c"], ["\x00"], ["a", "\ud800"], [(1 << 63) - 1, "a"]])
async def test_a_forged_page_token_is_refused(
    platform: Platform, deploying: DeployServicer, administering: ProjectServicer, position: list[Any]
) -> None:
    """Of the right scope and the wrong shape: it answers PAGE_TOKEN_INVALID, or an empty page, and is no INTERNAL."""
    uid = platform.project_uid
    await platform.add_endpoint()
    asked: list[tuple[str, Callable[[str], Awaitable[Any]]]] = [
        (
            f"ListEndpoints/{uid}",
            lambda token: deploying.ListEndpoints(deploy_pb2.ListEndpointsRequest(page_token=token), None),
        ),
        (
            f"ListDeployments/{uid}/-",
            lambda token: deploying.ListDeployments(
                deploy_pb2.ListDeploymentsRequest(parent=ALL, page_token=token), None
            ),
        ),
        (
            "ListInstances/False",
            lambda token: deploying.ListInstances(deploy_pb2.ListInstancesRequest(page_token=token), None),
        ),
        (
            f"ListApiKeys/{uid}",
            lambda token: administering.ListApiKeys(deploy_pb2.ListApiKeysRequest(page_token=token), None),
        ),
        (
            f"ListProjects/{ANN}",
            lambda token: administering.ListProjects(deploy_pb2.ListProjectsRequest(page_token=token), None),
        ),
    ]
    refused = 0
    for scope, ask in asked:
        try:
            await ask(page_token_encode(scope, position))
        except PageTokenInvalid:
            refused += 1
    assert refused >= len(asked) - 1


# Logs


async def test_logs_of_an_instance_that_ended_are_shown(platform: Platform, deploying: DeployServicer) -> None:
    """They are wanted most when it failed and nothing lives."""
    await platform.add_endpoint()
    await platform.deploy()
    for _ in range(5):
        await platform.look()
        for uid in platform.provider.alive:
            platform.provider.fail(uid)
        platform.clock.advance(1)
    first, *_, last = platform.provider.launched
    answer = await deploying.GetDeploymentLogs(deploy_pb2.GetDeploymentLogsRequest(name=BLUE), None)
    assert (answer.instance_uid, list(answer.lines)) == (last, [f"a line of {last}"])
    request = deploy_pb2.GetDeploymentLogsRequest(name=BLUE, instance_uid=first)
    assert (await deploying.GetDeploymentLogs(request, None)).instance_uid == first


async def test_logs_of_other_deployments_instances_are_not_shown(platform: Platform, deploying: DeployServicer) -> None:
    """Whoever may read one deployment does not read another one's output by naming its instance."""
    await platform.add_endpoint()
    blue = await platform.deploy()
    await platform.deploy("green")
    await platform.look()
    (other,) = [row.uid for row in await platform.instances() if row.deployment_uid != blue.uid]
    with pytest.raises(DeploymentNotFound):
        await deploying.GetDeploymentLogs(deploy_pb2.GetDeploymentLogsRequest(name=BLUE, instance_uid=other), None)


@pytest.mark.parametrize("changes", [{"lines": -1}, {"lines": 5001}, {"instance_uid": "\x00"}])
async def test_log_requests_are_checked(platform: Platform, deploying: DeployServicer, changes: dict[str, Any]) -> None:
    """Before the database or the provider sees them."""
    await platform.add_endpoint()
    await platform.deploy()
    with pytest.raises(InvalidArgument):
        await deploying.GetDeploymentLogs(deploy_pb2.GetDeploymentLogsRequest(name=BLUE, **changes), None)


async def test_released_instances_name_their_deployment(platform: Platform, deploying: DeployServicer) -> None:
    """Also after it is deleted."""
    await platform.add_endpoint()
    await platform.deploy()
    await platform.until_active()
    await delete_endpoint(platform.database, platform.clock, platform.project_uid, ENDPOINT, "")
    await platform.look()
    await platform.look()
    answer = await deploying.ListInstances(deploy_pb2.ListInstancesRequest(show_released=True), None)
    assert [instance.owner for instance in answer.instances] == [BLUE]


# Watches


async def watching(deploying: DeployServicer, after_revision: int = 0) -> AsyncIterator[deploy_pb2.Deployment]:
    request = deploy_pb2.WatchDeploymentRequest(name=BLUE, after_revision=after_revision)
    async for seen in deploying.WatchDeployment(request, None):
        yield seen


async def test_a_watch_begins_with_the_deployment_as_it_is(platform: Platform, deploying: DeployServicer) -> None:
    """So a caller never waits for something that happened already."""
    await platform.add_endpoint()
    await platform.deploy()
    watch = watching(deploying)
    assert (await anext(watch)).state == deploy_pb2.DEPLOYMENT_STATE_CREATING
    await watch.aclose()


async def test_a_watch_resumes_after_a_revision(platform: Platform, deploying: DeployServicer) -> None:
    """What the caller saw is not sent again, what it missed is sent at once."""
    await platform.add_endpoint()
    seen = await platform.deploy()
    await platform.scale(2)
    watch = watching(deploying, seen.revision)
    async with asyncio.timeout(4):
        assert (await anext(watch)).instance_count == 2
    await watch.aclose()


async def test_a_watch_ends_with_the_deployment(platform: Platform, deploying: DeployServicer) -> None:
    """After it said so, although the endpoint and its name are gone."""
    await platform.add_endpoint()
    await platform.deploy()
    watch = watching(deploying)
    await anext(watch)
    await delete_endpoint(platform.database, platform.clock, platform.project_uid, ENDPOINT, "")
    await platform.look()
    platform.reconciler.observed.signal()
    assert [found.state async for found in watch][-1] == deploy_pb2.DEPLOYMENT_STATE_DELETED


async def test_a_watch_misses_nothing_that_happens_while_the_caller_reads(
    platform: Platform, deploying: DeployServicer
) -> None:
    """The change falls between two looks of the watch; it is sent at once, not after the idle time."""
    await platform.add_endpoint()
    await platform.deploy()
    watch = watching(deploying)
    await anext(watch)
    request = deploy_pb2.ScaleDeploymentRequest(name=BLUE, instance_count=2)
    await deploying.ScaleDeployment(request, None)
    async with asyncio.timeout(4):
        assert (await anext(watch)).instance_count == 2
    await watch.aclose()
