"""Projects are told what is ahead of the versions they have deployed, and inference of its dates."""

from __future__ import annotations

from datetime import UTC, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.catalog.v1 import events_pb2 as catalog_events
from modelyard.catalog.v1 import lifecycle_pb2
from modelyard.deploy.v1 import events_pb2, notices_pb2

from chassis.access import Caller
from chassis.access.caller import CallerKind, set_current_caller
from chassis.events import published_event
from services.deploy.events.consumed import Consumed
from services.deploy.rpc.notices import NoticeServicer
from services.deploy.usecases.deployments import delete_deployment
from tests.clock import START
from tests.integration.deploy.build import ENDPOINT, PROJECT, SERVERLESS, VERSION, Platform, hear
from tests.integration.deploy.test_news_of_versions import DEPRECATES, news

RETIREMENT = lifecycle_pb2.VERSION_CHANGE_RETIREMENT
WHEN = START + timedelta(days=25)


async def announce(
    platform: Platform,
    days: int = 30,
    change: lifecycle_pb2.VersionChange.ValueType = RETIREMENT,
    version: str = VERSION,
) -> None:
    """The catalog says that a change is ahead."""
    when = Timestamp()
    when.FromDatetime(WHEN)
    message = catalog_events.VersionChangeAnnounced(
        model_version=version,
        change=change,
        change_time=when,
        days_ahead=days,
        replacement="publishers/acme/models/speaker",
    )
    event = published_event(
        "catalog",
        "version",
        "change-announced",
        message,
        project_uid=None,
        aggregate_uid="version-uid",
        sequence=days,
        time=START,
    )
    async with platform.database.unit_of_work() as uow:
        await Consumed(platform.database, platform.reconciler.wanted).change_announced(uow, event)


async def notices(platform: Platform, project_uid: str = "", page_size: int = 50) -> list[notices_pb2.Notice]:
    """Every notice of a project, page by page."""
    set_current_caller(
        Caller("user:ann", CallerKind.USER, project_uid=project_uid or platform.project_uid, project=PROJECT)
    )
    request, found = notices_pb2.ListNoticesRequest(page_size=page_size), []
    while True:
        page = await NoticeServicer(platform.database).ListNotices(request, None)
        found += page.notices
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def test_every_deployment_of_the_version_is_told(platform: Platform) -> None:
    """Each project its own, in the list and as an event, newest first."""
    bakery = await platform.add_project("bakery")
    await platform.add_endpoint()
    await platform.add_endpoint(project="bakery", project_uid=bakery)
    await platform.deploy()
    await platform.deploy("green")
    await platform.deploy(project="bakery", project_uid=bakery)
    await announce(platform, 30)
    await announce(platform, 7)
    found = await notices(platform, page_size=1)
    assert [one.days_ahead for one in found] == [7, 7, 30, 30]
    assert {one.deployment.rpartition("/")[2] for one in found[:2]} == {"blue", "green"}
    assert [one.days_ahead for one in await notices(platform, bakery)] == [7, 30]
    first = found[0]
    assert (first.model_version, first.change, first.replacement) == (
        VERSION,
        RETIREMENT,
        "publishers/acme/models/speaker",
    )
    assert first.change_time.ToDatetime(UTC) == WHEN
    told = await platform.events(events_pb2.DeploymentChangeAnnounced)
    assert len(told) == 6
    assert {one.deployment_uid for one in told if one.deployment.startswith("projects/bakery/")} == {
        one.deployment_uid for one in await notices(platform, bakery)
    }


async def test_nobody_else_is_told(platform: Platform) -> None:
    """Not of another version, not of what goes already, and not of fine-tuning."""
    await platform.add_endpoint()
    await platform.deploy()
    await announce(platform, version="publishers/acme/models/talker/versions/9")
    await announce(platform, change=lifecycle_pb2.VERSION_CHANGE_FINE_TUNE_RETIREMENT)
    await delete_deployment(platform.database, platform.clock, platform.project_uid, ENDPOINT, "blue", "", force=True)
    await announce(platform)
    assert await notices(platform) == []


async def test_the_day_of_deprecation_travels_in_the_route(platform: Platform) -> None:
    """Beside the day of retirement, so that answers can tell both before they come."""
    await platform.add_endpoint(kind=SERVERLESS)
    await platform.deploy(kind=SERVERLESS)
    await hear(platform, news(2))
    await platform.look()
    route = (await platform.routes())[-1]
    assert route is not None
    assert route.deployments[0].deprecation_time.ToDatetime(UTC) == DEPRECATES
