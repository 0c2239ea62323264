"""The catalog's news between its answer and the commit: whoever comes second sees what the first one did."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.catalog.v1 import catalog_pb2

from chassis.events import Event
from services.deploy.domain.errors import VersionDeprecated, VersionRetired
from services.deploy.storage.tables import DeploymentRow
from services.deploy.usecases.acceptance import Answers, Limits
from tests.clock import START
from tests.integration.deploy.build import MANAGED, SERVERLESS, Neighbourhood, Platform, hear, news_of_version

LEGACY, DEPRECATED = catalog_pb2.LIFECYCLE_STAGE_LEGACY, catalog_pb2.LIFECYCLE_STAGE_DEPRECATED
RETIRED = catalog_pb2.LIFECYCLE_STAGE_RETIRED
ROOMY = Limits(deployments_per_endpoint_max=20, instances_max=8, memory_bytes_max=64 << 30)
DEPRECATES, RETIRES = START + timedelta(days=10), START + timedelta(days=100)


def stamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def news(sequence: int, stage: catalog_pb2.LifecycleStage.ValueType = LEGACY) -> Event:
    """The version is in this stage, with both dates set."""
    return news_of_version(
        sequence,
        stage=stage,
        deprecation_time=stamp(DEPRECATES),
        retire_time=stamp(RETIRES),
        replacement="publishers/acme/models/speaker",
    )


class Overtaken(Neighbourhood):
    """The catalog answers, and before deploy commits, its next event is there."""

    def __init__(self, platform: Platform, event: Event) -> None:
        super().__init__(platform.project_uid, MANAGED)
        self._platform, self._event = platform, event

    async def ask(self) -> Answers:
        await hear(self._platform, self._event)
        return await super().ask()


async def facts(platform: Platform) -> catalog_pb2.ModelVersion:
    return catalog_pb2.ModelVersion.FromString((await platform.deployment()).version_facts)


@pytest.mark.parametrize(("stage", "refusal"), [(DEPRECATED, VersionDeprecated), (RETIRED, VersionRetired)])
async def test_what_ended_a_moment_ago_is_not_deployed(
    platform: Platform, stage: catalog_pb2.LifecycleStage.ValueType, refusal: type[Exception]
) -> None:
    """The event came before the deployment was there to be changed, and counts all the same."""
    await platform.add_endpoint()
    with pytest.raises(refusal, match="deploy publishers/acme/models/speaker instead"):
        await platform.deploy(neighbours=Overtaken(platform, news(2, stage)))
    assert await platform.rows(DeploymentRow) == []


async def test_dates_that_came_a_moment_ago_are_kept(platform: Platform) -> None:
    """The deployment begins with them, as if the catalog had been asked later."""
    await platform.add_endpoint()
    await platform.deploy(neighbours=Overtaken(platform, news(2)))
    found = await facts(platform)
    assert (found.etag, found.stage) == ("2", LEGACY)
    assert found.deprecation_time == stamp(DEPRECATES)
    assert (await platform.deployment()).retire_time == RETIRES


async def test_older_news_does_not_count(platform: Platform) -> None:
    """The catalog's answer says how new it is: a version's etag is the sequence of its newest event."""
    await platform.add_endpoint()
    await platform.deploy(neighbours=Overtaken(platform, news(1, RETIRED)))
    assert (await facts(platform)).stage == catalog_pb2.LIFECYCLE_STAGE_GA


async def test_an_event_beside_a_creation_is_never_missed(platform: Platform) -> None:
    """At the same moment, many times: the deployment has what the event says, or is refused for it."""
    await platform.add_endpoint(kind=SERVERLESS)
    for number in range(8):
        event = news(2 + number, LEGACY)
        neighbours = Neighbourhood(platform.project_uid, SERVERLESS)
        neighbours.version.etag = str(1 + number)
        made, _ = await asyncio.gather(
            platform.deploy(f"blue{number}", kind=SERVERLESS, neighbours=neighbours, limits=ROOMY),
            hear(platform, event),
        )
        row = await platform.deployment(made.uid)
        assert catalog_pb2.ModelVersion.FromString(row.version_facts).etag == str(2 + number)
        assert row.retire_time == RETIRES
