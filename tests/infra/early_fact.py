"""A fact of deploy that billing refuses, and takes a little later."""

from __future__ import annotations

from datetime import datetime, timedelta

from modelyard.deploy.v1 import events_pb2

from chassis.clock import SystemClock
from chassis.events import Event, published_event
from chassis.ids import new_uid
from chassis.timestamps import timestamp
from services.billing.usecases.post_instance_facts import AHEAD_MAX

SOON = timedelta(seconds=2)


def early_fact() -> tuple[Event, datetime]:
    """An instance seen further ahead than a fact may be, and when that is no longer too far."""
    now, instance = SystemClock().now(), new_uid()
    seen = events_pb2.InstanceObserved(instance_uid=instance, through_time=timestamp(now + AHEAD_MAX + SOON))
    event = published_event(
        "deploy",
        "instance",
        "observed",
        seen,
        project_uid=new_uid(),
        aggregate_uid=instance,
        sequence=1,
        time=now,
    )
    return event, now + SOON
