"""Facts the catalog publishes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from modelyard.catalog.v1 import catalog_pb2, events_pb2, lifecycle_pb2, providers_pb2

from chassis.events import Event, published_event
from chassis.timestamps import timestamp
from services.catalog.domain.lifecycle import midnight
from services.catalog.storage.queries.lifecycle import Ahead


def versions_published(
    versions: Sequence[tuple[str, str, int]], now: datetime, *, project_uid: str | None = None
) -> Event:
    """Versions that entered the catalog together: resource name, uid and stage of each.

    `project_uid` where they are a project's own.
    """
    message = events_pb2.VersionsPublished(
        versions=[
            events_pb2.VersionPublished(model_version=name, uid=uid, stage=catalog_pb2.LifecycleStage.ValueType(stage))
            for name, uid, stage in versions
        ]
    )
    return published_event(
        "catalog",
        "versions",
        "published",
        message,
        project_uid=project_uid,
        aggregate_uid=versions[0][1],
        sequence=1,
        time=now,
    )


def lifecycle_changed(
    model_version: str,
    uid: str,
    stage: int,
    *,
    deprecation_time: datetime | None,
    retire_time: datetime | None,
    replacement: str,
    sequence: int,
    now: datetime,
    provider: providers_pb2.ProviderTarget | None = None,
) -> Event:
    """A version's stage or dates changed, or where its provider answers."""
    message = events_pb2.VersionLifecycleChanged(
        model_version=model_version,
        uid=uid,
        stage=catalog_pb2.LifecycleStage.ValueType(stage),
        deprecation_time=None if deprecation_time is None else timestamp(deprecation_time),
        retire_time=None if retire_time is None else timestamp(retire_time),
        replacement=replacement,
        provider=provider,
    )
    return published_event(
        "catalog",
        "version",
        "lifecycle-changed",
        message,
        project_uid=None,
        aggregate_uid=uid,
        sequence=sequence,
        time=now,
    )


def change_announced(
    model_version: str, uid: str, ahead: Ahead, days_ahead: int, sequence: int, now: datetime
) -> Event:
    """A change is ahead of a version."""
    message = events_pb2.VersionChangeAnnounced(
        model_version=model_version,
        uid=uid,
        change=lifecycle_pb2.VersionChange.ValueType(ahead.change),
        change_time=timestamp(midnight(ahead.day)),
        days_ahead=days_ahead,
        replacement=ahead.replacement,
    )
    return published_event(
        "catalog",
        "version",
        "change-announced",
        message,
        project_uid=None,
        aggregate_uid=uid,
        sequence=sequence,
        time=now,
    )
