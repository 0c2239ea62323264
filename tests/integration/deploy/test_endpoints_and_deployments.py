"""Endpoints and deployments as they are asked for: names, quotes, limits, etags, traffic, deletion."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest
from modelyard.catalog.v1 import catalog_pb2
from modelyard.deploy.v1 import deploy_pb2, events_pb2

from chassis.errors import EtagMismatch, InvalidArgument, Problem, RequestIdReused
from services.deploy.domain.deployments import DeploymentState
from services.deploy.domain.errors import (
    CapacityExceeded,
    DeploymentExists,
    DeploymentHasTraffic,
    DeploymentNotFound,
    DeploymentNotManaged,
    EndpointExists,
    EndpointNotFound,
    QuotaExceeded,
    QuoteExpired,
    QuoteMismatch,
)
from services.deploy.storage import queries
from services.deploy.storage.tables import DeploymentRow, EndpointRow
from services.deploy.usecases.deployments import delete_deployment
from services.deploy.usecases.endpoints import create_endpoint, delete_endpoint, update_traffic
from tests.integration.deploy.build import (
    ANN,
    ENDPOINT,
    GIB,
    LIMITS,
    MANAGED,
    PROJECT,
    SERVERLESS,
    VERSION,
    Neighbourhood,
    Platform,
)


async def create(platform: Platform, name: str, *, request_id: str = "", kind: int = MANAGED) -> deploy_pb2.Endpoint:
    return await create_endpoint(
        platform.database,
        platform.clock,
        principal=ANN,
        project_uid=platform.project_uid,
        project=PROJECT,
        request=deploy_pb2.CreateEndpointRequest(
            endpoint_id=name, kind=deploy_pb2.EndpointKind.ValueType(kind), request_id=request_id
        ),
        endpoints_max=2,
    )


async def split(platform: Platform, traffic: dict[str, int], etag: str = "") -> deploy_pb2.Endpoint:
    return await update_traffic(platform.database, platform.project_uid, ENDPOINT, traffic, etag)


async def delete(
    platform: Platform, name: str = "blue", *, etag: str = "", force: bool = True
) -> deploy_pb2.Deployment:
    return await delete_deployment(
        platform.database, platform.clock, platform.project_uid, ENDPOINT, name, etag, force=force
    )


async def remove(platform: Platform, etag: str = "") -> None:
    await delete_endpoint(platform.database, platform.clock, platform.project_uid, ENDPOINT, etag)


async def traffic_of(platform: Platform) -> dict[str, int]:
    async with platform.database.reader() as session:
        row = await queries.endpoint(session, platform.project_uid, ENDPOINT)
    assert row is not None
    return row.traffic


async def outcomes(*calls: Awaitable[Any]) -> list[Any]:
    """Answers and refusals of calls that are made at once; any other error fails the test."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Problem):
            raise result
    return results


# Endpoints


async def test_a_repeated_creation_gets_the_first_answer(platform: Platform) -> None:
    """The same request id is the same endpoint, also when both come at once."""
    first, second = await outcomes(create(platform, "talk", request_id="r1"), create(platform, "talk", request_id="r1"))
    assert first == second == await create(platform, "talk", request_id="r1")
    assert len(await platform.rows(EndpointRow)) == 1


async def test_a_request_id_is_for_one_request(platform: Platform) -> None:
    """Another endpoint under the same id is a mistake of the caller."""
    await create(platform, "talk", request_id="r1")
    with pytest.raises(RequestIdReused):
        await create(platform, "chat", request_id="r1")


async def test_an_endpoints_name_is_taken_once(platform: Platform) -> None:
    """Of two that are created at once, too."""
    results = await outcomes(create(platform, "talk"), create(platform, "talk"))
    assert sorted(type(result).__name__ for result in results) == ["Endpoint", "EndpointExists"]
    with pytest.raises(EndpointExists, match="'talk' exists in project 'shop'"):
        await create(platform, "talk")


async def test_a_project_has_a_limited_number_of_endpoints(platform: Platform) -> None:
    """The message has both numbers and the way out."""
    await create(platform, "one")
    await create(platform, "two")
    with pytest.raises(QuotaExceeded, match="has 2 endpoints; 2 are allowed: delete one"):
        await create(platform, "three")


@pytest.mark.parametrize(("name", "kind"), [("Talk", MANAGED), ("ta", MANAGED), ("talk", 0), ("talk", 3)])
async def test_names_and_kinds_are_checked(platform: Platform, name: str, kind: int) -> None:
    """Before anything is stored."""
    with pytest.raises(InvalidArgument):
        await create(platform, name, kind=kind)
    assert await platform.rows(EndpointRow) == []


async def test_an_endpoints_name_is_free_again_and_its_uid_is_not(platform: Platform) -> None:
    """Events, usage and bills key on the uid, so an old endpoint is never mistaken for a new one."""
    first = await platform.add_endpoint()
    await remove(platform)
    second = await platform.add_endpoint()
    assert first.name == second.name
    assert first.uid != second.uid


async def test_deleting_an_endpoint_deletes_its_deployments(platform: Platform) -> None:
    """Instances end and are released; the rows stay."""
    await platform.add_endpoint()
    await platform.deploy()
    await platform.until_active()
    await remove(platform)
    await platform.look()
    await platform.look()
    assert (await platform.deployment()).state == DeploymentState.DELETED
    assert platform.provider.alive == []
    assert len(await platform.releases()) == 1


async def test_nothing_is_deployed_behind_an_endpoint_that_goes(platform: Platform) -> None:
    """Of a deletion and a creation at once, no deployment survives that nobody could reach or delete."""
    await platform.add_endpoint()
    await outcomes(remove(platform), platform.deploy())
    living = [row for row in await platform.rows(DeploymentRow) if not row.deleting]
    assert living == []


# Etags


async def test_a_change_of_something_else_than_was_read_is_refused(platform: Platform) -> None:
    """By etag; an empty one changes whatever is there."""
    read = await platform.add_endpoint()
    await platform.deploy()
    with pytest.raises(EtagMismatch):
        await split(platform, {}, read.etag)
    with pytest.raises(EtagMismatch):
        await remove(platform, read.etag)
    await split(platform, {}, "")


async def test_of_two_changes_from_one_reading_the_second_is_refused(platform: Platform) -> None:
    """Also when both come at once: what a decision reads is locked and fresh."""
    await platform.add_endpoint()
    await platform.deploy()
    etag = (await split(platform, {})).etag
    results = await outcomes(split(platform, {"blue": 100}, etag), split(platform, {}, etag))
    assert sorted(type(result).__name__ for result in results) == ["Endpoint", "EtagMismatch"]


async def test_a_deployments_etag_guards_scaling_and_deleting(platform: Platform) -> None:
    """It changes with what is wanted, not with what is observed."""
    await platform.add_endpoint()
    read = await platform.deploy()
    await platform.until_active()
    scaled = await platform.scale(2, etag=read.etag)
    for change in (platform.scale(1, etag=read.etag), delete(platform, etag=read.etag)):
        with pytest.raises(EtagMismatch):
            await change
    await delete(platform, etag=scaled.etag)


# Deployments


async def test_a_repeated_deployment_gets_the_first_answer(platform: Platform) -> None:
    """One deployment, also when both come at once."""
    await platform.add_endpoint()
    first, second = await outcomes(platform.deploy(request_id="r1"), platform.deploy(request_id="r1"))
    assert first == second
    assert len(await platform.rows(DeploymentRow)) == 1


async def test_a_repeat_needs_no_neighbour(platform: Platform) -> None:
    """Billing may be away, the quote expired and the endpoint gone: the answer stands."""
    await platform.add_endpoint()
    neighbours = Neighbourhood(platform.project_uid, MANAGED)
    first = await platform.deploy(request_id="r1", neighbours=neighbours)
    await remove(platform)
    assert await platform.deploy(request_id="r1", neighbours=neighbours) == first
    assert neighbours.asked == 1


async def test_a_deployment_keeps_the_quotes_price(platform: Platform) -> None:
    """It is stamped on the deployment and on each instance's first event."""
    await platform.add_endpoint()
    answer = await platform.deploy()
    await platform.look()
    (allocated,) = await platform.events(events_pb2.InstanceAllocated)
    assert (answer.price_version, answer.quote) == ("list@1/price", "projects/shop/quotes/q1")
    assert (allocated.price_version, allocated.quote) == (answer.price_version, answer.quote)


async def test_an_expired_quote_is_refused(platform: Platform) -> None:
    """At its very end already."""
    await platform.add_endpoint()
    neighbours = Neighbourhood(platform.project_uid, MANAGED)
    neighbours.quote.expire_time.FromDatetime(platform.clock.now())
    with pytest.raises(QuoteExpired, match="expired at 2026-01-15T12:00:00"):
        await platform.deploy(neighbours=neighbours)


async def test_another_projects_quote_is_refused(platform: Platform) -> None:
    """A quote names one project's price."""
    await platform.add_endpoint()
    with pytest.raises(QuoteMismatch, match="another project"):
        await platform.deploy(neighbours=Neighbourhood(await platform.add_project("bakery"), MANAGED))


@pytest.mark.parametrize(
    ("kind", "field"), [(MANAGED, "instance_type"), (SERVERLESS, "model_version"), (MANAGED, "model_version")]
)
async def test_a_quote_for_something_else_is_refused(platform: Platform, kind: int, field: str) -> None:
    """Another type, another version, or tokens where core-hours are deployed."""
    await platform.add_endpoint(kind=kind)
    neighbours = Neighbourhood(platform.project_uid, kind)
    neighbours.quote.ClearField("instance_type")
    setattr(neighbours.quote, field, "publishers/acme/models/other/versions/9")
    with pytest.raises(QuoteMismatch, match="is for 'publishers/acme/models/other/versions/9'"):
        await platform.deploy(kind=kind, neighbours=neighbours)


async def test_what_the_catalog_refuses_is_refused(platform: Platform) -> None:
    """With the reason of the gravest, and all that was found; no deployment is left behind."""
    await platform.add_endpoint()
    neighbours = Neighbourhood(platform.project_uid, MANAGED)
    neighbours.refuse("MODEL_DEPRECATED", "it takes no new deployments")
    neighbours.refuse("INSTANCE_TYPE_TOO_SMALL", "it needs 3 cores")
    with pytest.raises(Problem, match=r"no new deployments\. Also: it needs 3 cores") as refused:
        await platform.deploy(neighbours=neighbours)
    assert refused.value.message == "it takes no new deployments. Also: it needs 3 cores"
    assert refused.value.reason == "MODEL_DEPRECATED"
    assert refused.value.metadata == {"reasons": "MODEL_DEPRECATED,INSTANCE_TYPE_TOO_SMALL"}
    assert await platform.rows(DeploymentRow) == []


async def test_a_quote_for_one_version_on_a_type(platform: Platform) -> None:
    """A managed quote that names a version is for that version alone."""
    await platform.add_endpoint()
    neighbours = Neighbourhood(platform.project_uid, MANAGED)
    neighbours.quote.model_version = VERSION
    await platform.deploy(neighbours=neighbours)
    neighbours.quote.model_version = "publishers/acme/models/other/versions/1"
    with pytest.raises(QuoteMismatch):
        await platform.deploy("green", neighbours=neighbours)


async def test_kinds_are_not_mixed(platform: Platform) -> None:
    """A managed endpoint needs a type; a serverless one takes none and is not scaled."""
    await platform.add_endpoint()
    await platform.add_endpoint("chat", SERVERLESS)
    with pytest.raises(InvalidArgument, match="set instance_type"):
        await platform.deploy(kind=SERVERLESS)
    with pytest.raises(InvalidArgument, match="leave instance_type and instance_count empty"):
        await platform.deploy(endpoint="chat", kind=MANAGED)


async def test_serverless_deployments_are_not_scaled(platform: Platform) -> None:
    """The shared pool sizes itself."""
    await platform.add_endpoint(kind=SERVERLESS)
    await platform.deploy(kind=SERVERLESS)
    with pytest.raises(DeploymentNotManaged):
        await platform.scale(2)


async def test_a_deployments_name_is_taken_once(platform: Platform) -> None:
    """Behind one endpoint, also at once, and also while the old one is ending."""
    await platform.add_endpoint()
    results = await outcomes(platform.deploy(), platform.deploy())
    assert sorted(type(result).__name__ for result in results) == ["Deployment", "DeploymentExists"]
    await platform.until_active()
    await delete(platform)
    with pytest.raises(DeploymentExists):
        await platform.deploy()


async def test_a_deployments_name_is_free_once_it_is_gone(platform: Platform) -> None:
    """Under another uid."""
    await platform.add_endpoint()
    first = await platform.deploy()
    await delete(platform)
    await platform.look()
    second = await platform.deploy()
    assert first.name == second.name
    assert first.uid != second.uid


async def test_an_endpoint_has_a_limited_number_of_deployments(platform: Platform) -> None:
    """The message has both numbers."""
    await platform.add_endpoint()
    for name in ("one", "two", "three"):
        await platform.deploy(name)
    with pytest.raises(QuotaExceeded, match="has 3 deployments; 3 are allowed"):
        await platform.deploy("four")


async def test_scaling_keeps_the_quote(platform: Platform) -> None:
    """It prices one unit, never a count."""
    await platform.add_endpoint()
    before = await platform.deploy()
    platform.clock.advance(2 * 86_400)
    after = await platform.scale(3)
    assert (after.quote, after.price_version, after.instance_count) == (before.quote, before.price_version, 3)


async def test_what_is_being_deleted_is_not_scaled(platform: Platform) -> None:
    """It would be allocated for nobody."""
    await platform.add_endpoint()
    await platform.deploy()
    await delete(platform)
    with pytest.raises(DeploymentNotFound, match="is being deleted"):
        await platform.scale(2)


async def test_deleting_again_changes_nothing(platform: Platform) -> None:
    """One event, one revision."""
    await platform.add_endpoint()
    await platform.deploy()
    assert await delete(platform) == await delete(platform)
    states = [event.state for event in await platform.events(events_pb2.DeploymentChanged)]
    assert states == ["CREATING", "DELETING"]


# Capacity


async def test_what_is_promised_counts_before_it_runs(platform: Platform) -> None:
    """Two creations in a row do not share the same room."""
    await platform.add_endpoint()
    await platform.deploy(count=6)
    with pytest.raises(CapacityExceeded, match="6 instances run or are wanted and 3 more are asked for; 8 are allowed"):
        await platform.deploy("green", count=3)


async def test_two_at_once_do_not_share_the_same_room(platform: Platform) -> None:
    """Behind different endpoints, whose locks do not meet."""
    await platform.add_endpoint()
    await platform.add_endpoint("chat")
    results = await outcomes(platform.deploy(count=5), platform.deploy(endpoint="chat", count=5))
    assert sorted(type(result).__name__ for result in results) == ["CapacityExceeded", "Deployment"]


async def test_scaling_up_needs_room_for_the_difference(platform: Platform) -> None:
    """What it has counts once."""
    await platform.add_endpoint()
    await platform.deploy(count=6)
    await platform.look()
    await platform.scale(8)
    with pytest.raises(CapacityExceeded, match="8 instances run or are wanted and 1 more"):
        await platform.scale(9)


async def test_memory_is_a_limit_of_its_own(platform: Platform) -> None:
    """The message shows GiB."""
    await platform.add_endpoint()
    small = replace(LIMITS, memory_bytes_max=7 * GIB)
    await platform.deploy(limits=small)
    with pytest.raises(CapacityExceeded, match=r"hold 4\.0 GiB and 4\.0 GiB more are asked for; 7\.0 GiB are allowed"):
        await platform.deploy("green", limits=small)


async def test_a_pool_needs_room_once(platform: Platform) -> None:
    """The first serverless deployment of a version takes an instance's room, the second none."""
    await platform.add_endpoint(kind=SERVERLESS)
    full = replace(LIMITS, instances_max=1)
    await platform.deploy("one", kind=SERVERLESS, limits=full)
    await platform.deploy("two", kind=SERVERLESS, limits=full)
    await platform.add_endpoint("mine")
    with pytest.raises(CapacityExceeded):
        await platform.deploy(endpoint="mine", limits=full)


async def test_a_pool_without_room_is_refused(platform: Platform) -> None:
    """Serverless does not mean without machines."""
    await platform.add_endpoint(kind=SERVERLESS)
    with pytest.raises(CapacityExceeded):
        await platform.deploy(kind=SERVERLESS, limits=replace(LIMITS, instances_max=0))


# Traffic


async def test_the_first_deployment_takes_all_traffic(platform: Platform) -> None:
    """An endpoint whose only deployment gets no calls would be a trap; the next one begins at nothing."""
    await platform.add_endpoint()
    await platform.deploy()
    await platform.deploy("green")
    assert await traffic_of(platform) == {"blue": 100}


async def test_a_deployment_is_the_first_when_all_others_are_going(platform: Platform) -> None:
    """Its predecessor ends slowly and takes no calls any more."""
    await platform.add_endpoint()
    await platform.deploy()
    await platform.until_active()
    await delete(platform)
    await platform.deploy("green")
    assert await traffic_of(platform) == {"green": 100}


async def test_traffic_that_was_taken_away_is_not_given_back(platform: Platform) -> None:
    """An owner who emptied the split meant it."""
    await platform.add_endpoint()
    await platform.deploy()
    await split(platform, {})
    await platform.deploy("green")
    assert await traffic_of(platform) == {}


async def test_a_deployment_with_traffic_is_not_deleted_by_accident(platform: Platform) -> None:
    """Without force it is refused and nothing changes."""
    await platform.add_endpoint()
    await platform.deploy()
    with pytest.raises(DeploymentHasTraffic, match="takes 100 % of the traffic"):
        await delete(platform, force=False)
    assert not (await platform.deployment()).deleting


async def test_a_deployment_without_traffic_is_deleted_without_force(platform: Platform) -> None:
    """Blue goes after green took over."""
    await platform.add_endpoint()
    await platform.deploy()
    await platform.deploy("green")
    await split(platform, {"green": 100})
    assert (await delete(platform, force=False)).state == deploy_pb2.DEPLOYMENT_STATE_DELETING


async def test_a_forced_deletion_gives_the_share_to_the_others(platform: Platform) -> None:
    """The split stays whole."""
    await platform.add_endpoint()
    for name in ("blue", "green", "red"):
        await platform.deploy(name)
    await split(platform, {"blue": 50, "green": 20, "red": 30})
    await delete(platform)
    assert await traffic_of(platform) == {"green": 40, "red": 60}


async def test_traffic_goes_only_to_what_is_there(platform: Platform) -> None:
    """Not to a deployment that is going."""
    await platform.add_endpoint()
    await platform.deploy()
    await platform.until_active()
    await delete(platform)
    with pytest.raises(DeploymentNotFound):
        await split(platform, {"blue": 100})


async def test_other_projects_endpoints_do_not_exist(platform: Platform) -> None:
    """They answer as if they were not there."""
    await platform.add_endpoint()
    stranger = await platform.add_project("bakery")
    with pytest.raises(EndpointNotFound):
        await update_traffic(platform.database, stranger, ENDPOINT, {}, "")
    with pytest.raises(EndpointNotFound):
        await delete_endpoint(platform.database, platform.clock, stranger, ENDPOINT, "")


async def test_a_version_is_kept_as_it_was_deployed(platform: Platform) -> None:
    """Instances start from the deployment's own facts, not from what the catalog says later."""
    await platform.add_endpoint()
    await platform.deploy()
    facts = catalog_pb2.ModelVersion.FromString((await platform.deployment()).version_facts)
    assert (facts.name, facts.serving.engine) == (VERSION, "noop")
