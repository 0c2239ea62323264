"""Facts and projections deploy publishes."""

from __future__ import annotations

from datetime import datetime

from modelyard.catalog.v1 import lifecycle_pb2
from modelyard.deploy.v1 import events_pb2, routes_pb2
from modelyard.type.v1 import access_pb2

from chassis.clock import time_from_ms
from chassis.events import Event, Projection, published_event
from chassis.timestamps import timestamp
from services.deploy.domain.deployments import DeploymentState
from services.deploy.storage.tables import ApiKeyRow, DeploymentRow, InstanceRow, NoticeRow, ProjectRow


def project_created(row: ProjectRow) -> Event:
    """A project exists."""
    return published_event(
        "deploy",
        "project",
        "created",
        events_pb2.ProjectCreated(project_uid=row.uid, project=row.name),
        project_uid=row.uid,
        aggregate_uid=row.uid,
        sequence=row.revision,
        time=row.create_time,
    )


def deployment_changed(row: DeploymentRow, now: datetime) -> Event:
    """A deployment changed state."""
    message = events_pb2.DeploymentChanged(
        deployment_uid=row.uid,
        deployment=row.resource,
        state=DeploymentState(row.state).name,
        state_detail=row.state_detail,
        model_version=row.model_version,
    )
    return published_event(
        "deploy",
        "deployment",
        "changed",
        message,
        project_uid=row.project_uid,
        aggregate_uid=row.uid,
        sequence=row.revision,
        time=now,
    )


def deployment_change_announced(row: DeploymentRow, notice: NoticeRow) -> Event:
    """A project is told that a change is ahead of the version behind a deployment."""
    message = events_pb2.DeploymentChangeAnnounced(
        deployment_uid=row.uid,
        deployment=row.resource,
        model_version=row.model_version,
        change=lifecycle_pb2.VersionChange.ValueType(notice.change),
        change_time=timestamp(notice.change_time),
        days_ahead=notice.days_ahead,
        replacement=notice.replacement,
    )
    return published_event(
        "deploy",
        "deployment",
        "change-announced",
        message,
        project_uid=row.project_uid,
        aggregate_uid=row.uid,
        sequence=row.revision,
        time=notice.create_time,
    )


def instance_allocated(row: InstanceRow, deployment: DeploymentRow) -> Event:
    """Billing of an instance starts."""
    allocate_time = time_from_ms(row.allocate_ms)
    message = events_pb2.InstanceAllocated(
        instance_uid=row.uid,
        project_uid=row.project_uid,
        endpoint_uid=deployment.endpoint_uid,
        deployment_uid=deployment.uid,
        deployment=deployment.resource,
        model_version=deployment.model_version,
        instance_type=deployment.instance_type,
        vcpus=row.vcpus,
        price_version=deployment.price_version,
        quote=deployment.quote,
        allocate_time=timestamp(allocate_time),
    )
    return _instance_event("allocated", message, row, allocate_time)


def instance_observed(row: InstanceRow) -> Event:
    """An instance was seen alive."""
    through_time = time_from_ms(row.through_ms)
    message = events_pb2.InstanceObserved(instance_uid=row.uid, through_time=timestamp(through_time))
    return _instance_event("observed", message, row, through_time)


def instance_released(row: InstanceRow, release_ms: int, witness: str) -> Event:
    """Billing of an instance ends."""
    release_time = time_from_ms(release_ms)
    message = events_pb2.InstanceReleased(instance_uid=row.uid, release_time=timestamp(release_time), witness=witness)
    return _instance_event("released", message, row, release_time)


def _instance_event(
    action: str,
    message: events_pb2.InstanceAllocated | events_pb2.InstanceObserved | events_pb2.InstanceReleased,
    row: InstanceRow,
    moment: datetime,
) -> Event:
    row.event_sequence += 1
    return published_event(
        "deploy",
        "instance",
        action,
        message,
        project_uid=row.project_uid,
        aggregate_uid=row.uid,
        sequence=row.event_sequence,
        time=moment,
    )


def project_access(row: ProjectRow) -> Projection:
    """Who may act in a project."""
    value = access_pb2.ProjectAccess(
        project_uid=row.uid,
        project=row.name,
        members=[
            access_pb2.Member(principal=principal, role=access_pb2.Role.ValueType(role))
            for principal, role in sorted(row.members.items())
        ],
    )
    return Projection("projects", row.uid, value.SerializeToString(deterministic=True), row.revision)


def key_access(row: ApiKeyRow) -> Projection:
    """What a key may call."""
    value = routes_pb2.KeyAccess(
        key_id=row.id,
        secret_sha256=row.secret_sha256,
        project_uid=row.project_uid,
        endpoint_uids=[row.endpoint_uid] if row.endpoint_uid else row.endpoint_uids,
        expire_time=None if row.expire_time is None else timestamp(row.expire_time),
        revoked=row.revoke_time is not None,
    )
    return Projection("access", row.id, value.SerializeToString(deterministic=True), row.revision)


def route(endpoint_uid: str, value: bytes, sequence: int) -> Projection:
    """How inference reaches an endpoint; an empty value takes the route back."""
    return Projection("routes", endpoint_uid, value, sequence)
