"""What billing hears: usage from inference; instances, projects and deployments from deploy."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.deploy.v1 import events_pb2
from modelyard.type.v1 import usage_pb2

from chassis.clock import Clock
from chassis.database import Database, UnitOfWork
from chassis.events import Event, decode_event
from services.billing.domain.usage import NO_TIME, UsageFact
from services.billing.storage import ledger
from services.billing.usecases.post_instance_facts import (
    Allocation,
    post_allocation,
    post_observation,
    post_release,
)
from services.billing.usecases.post_usage import post_usage


class Consumed:
    """Handlers of billing's consumers."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def usage(self, events: Sequence[Event]) -> None:
        """Durable `billing-usage`: many records a message, many messages a transaction."""
        facts = [
            usage_from_proto(record) for event in events for record in decode_event(event, usage_pb2.UsageBatch).records
        ]
        await post_usage(self._database, self._clock, facts)

    async def instance(self, uow: UnitOfWork, event: Event) -> None:
        """Durable `billing-instances`."""
        if event.action == "allocated":
            allocated = decode_event(event, events_pb2.InstanceAllocated)
            fact = Allocation(
                instance_uid=allocated.instance_uid,
                project_uid=allocated.project_uid,
                endpoint_uid=allocated.endpoint_uid,
                deployment_uid=allocated.deployment_uid,
                deployment=allocated.deployment,
                model_version=allocated.model_version,
                instance_type=allocated.instance_type,
                vcpus=allocated.vcpus,
                price_version=allocated.price_version,
                quote=allocated.quote,
                allocate_time=_moment(allocated.allocate_time),
            )
            await post_allocation(uow, self._database, self._clock, fact)
        elif event.action == "observed":
            observed = decode_event(event, events_pb2.InstanceObserved)
            await post_observation(
                uow, self._database, self._clock, observed.instance_uid, _moment(observed.through_time)
            )
        else:
            released = decode_event(event, events_pb2.InstanceReleased)
            await post_release(uow, self._database, self._clock, released.instance_uid, _moment(released.release_time))

    async def project(self, uow: UnitOfWork, event: Event) -> None:
        """Durable `billing-projects`."""
        created = decode_event(event, events_pb2.ProjectCreated)
        await ledger.see_project(uow, self._database, created.project_uid, created.project)

    async def deployment(self, uow: UnitOfWork, event: Event) -> None:
        """Durable `billing-deployments`."""
        changed = decode_event(event, events_pb2.DeploymentChanged)
        await ledger.see_deployment(uow, self._database, changed.deployment_uid, changed.deployment)


def usage_from_proto(record: usage_pb2.UsageRecord) -> UsageFact:
    """A record as the domain knows it; quantities are ordered by meter, so that order makes no other digest.

    It never fails: what cannot be true is for the domain to say.
    """
    return UsageFact(
        id=record.id,
        journal_id=record.journal_id,
        journal_seq=record.journal_seq,
        project_uid=record.project_uid,
        endpoint_uid=record.endpoint_uid,
        deployment_uid=record.deployment_uid,
        model_version=record.model_version,
        key_id=record.key_id,
        price_version=record.price_version,
        quote=record.quote,
        outcome=record.outcome,
        occur_time=_moment(record.occur_time),
        quantities=tuple(sorted((quantity.meter, quantity.value) for quantity in record.quantities)),
        request_id=record.request_id,
        traceparent=record.traceparent,
    )


def _moment(stamp: Timestamp) -> datetime:
    """NO_TIME for what is missing or in no calendar: the rules refuse it."""
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        return NO_TIME
