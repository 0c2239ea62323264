"""Rows to protos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.catalog.v1 import lifecycle_pb2
from modelyard.deploy.v1 import deploy_pb2, notices_pb2
from modelyard.type.v1 import access_pb2

from chassis.clock import time_from_ms
from chassis.names import ResourcePattern
from chassis.timestamps import timestamp
from services.deploy.domain.deployments import InstanceState
from services.deploy.storage.tables import (
    ApiKeyRow,
    DeploymentRow,
    EndpointRow,
    InstanceRow,
    NoticeRow,
    ProjectRow,
)

PROJECT = ResourcePattern("projects/{project}")
API_KEY = ResourcePattern("projects/{project}/apiKeys/{key}")
ENDPOINT = ResourcePattern("projects/{project}/endpoints/{endpoint}")
DEPLOYMENT = ResourcePattern("projects/{project}/endpoints/{endpoint}/deployments/{deployment}")


def _stamp(moment: datetime | None) -> Timestamp | None:
    return None if moment is None else timestamp(moment)


def project_to_proto(row: ProjectRow) -> deploy_pb2.Project:
    return deploy_pb2.Project(
        name=PROJECT.format(project=row.name),
        uid=row.uid,
        members=[
            access_pb2.Member(principal=principal, role=access_pb2.Role.ValueType(role))
            for principal, role in sorted(row.members.items())
        ],
        create_time=_stamp(row.create_time),
        etag=str(row.revision),
    )


def api_key_to_proto(row: ApiKeyRow, project: str, endpoint_names: Mapping[str, str]) -> deploy_pb2.ApiKey:
    """A key without its secret; `endpoint_names` by uid, for its scopes.

    An endpoint that is gone shows as its uid: no scopes at all would mean every endpoint.
    """
    scopes = [row.endpoint_uid] if row.endpoint_uid else row.endpoint_uids
    return deploy_pb2.ApiKey(
        name=API_KEY.format(project=project, key=row.id),
        id=row.id,
        kind=deploy_pb2.ApiKeyKind.ValueType(row.kind),
        endpoints=[endpoint_names.get(uid, uid) for uid in scopes],
        expire_time=_stamp(row.expire_time),
        revoke_time=_stamp(row.revoke_time),
        create_time=_stamp(row.create_time),
    )


def endpoint_to_proto(row: EndpointRow, deployments: Sequence[DeploymentRow]) -> deploy_pb2.Endpoint:
    return deploy_pb2.Endpoint(
        name=ENDPOINT.format(project=row.project, endpoint=row.name),
        uid=row.uid,
        kind=deploy_pb2.EndpointKind.ValueType(row.kind),
        traffic=row.traffic,
        deployments=sorted(deployment.name for deployment in deployments if not deployment.deleting),
        create_time=_stamp(row.create_time),
        etag=str(row.revision),
    )


def deployment_to_proto(
    row: DeploymentRow, instances: Sequence[InstanceRow], pool_ready: int = 0
) -> deploy_pb2.Deployment:
    """A deployment with its own instances; `pool_ready` counts those of the pool for serverless ones."""
    own_ready = sum(1 for instance in instances if instance.state == InstanceState.READY)
    return deploy_pb2.Deployment(
        name=row.resource,
        uid=row.uid,
        model_version=row.model_version,
        instance_type=row.instance_type,
        instance_count=row.instance_count,
        quote=row.quote,
        price_version=row.price_version,
        state=deploy_pb2.DeploymentState.ValueType(row.state),
        state_detail=row.state_detail,
        instances=[instance_to_proto(instance) for instance in instances],
        ready_instance_count=pool_ready if row.pool_uid else own_ready,
        create_time=_stamp(row.create_time),
        etag=str(row.wanted_revision),
        revision=row.revision,
    )


def instance_to_proto(row: InstanceRow, owner: str = "") -> deploy_pb2.Instance:
    return deploy_pb2.Instance(
        uid=row.uid,
        state=deploy_pb2.InstanceState.ValueType(row.state),
        state_detail=row.state_detail,
        vcpus=row.vcpus,
        allocate_time=_stamp(time_from_ms(row.allocate_ms)),
        release_time=None if row.release_ms is None else _stamp(time_from_ms(row.release_ms)),
        limits=row.limits,
        owner=owner,
    )


def notice_to_proto(row: NoticeRow, project: str) -> notices_pb2.Notice:
    return notices_pb2.Notice(
        name=f"projects/{project}/notices/{row.uid}",
        deployment=row.deployment,
        deployment_uid=row.deployment_uid,
        model_version=row.model_version,
        change=lifecycle_pb2.VersionChange.ValueType(row.change),
        change_time=_stamp(row.change_time),
        days_ahead=row.days_ahead,
        replacement=row.replacement,
        create_time=_stamp(row.create_time),
    )
