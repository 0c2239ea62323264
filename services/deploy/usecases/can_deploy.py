"""Whether a deployment would be accepted: every reason at once, and nothing promised."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from modelyard.billing.v1 import billing_pb2
from modelyard.catalog.v1 import catalog_pb2
from modelyard.deploy.v1 import deploy_pb2
from modelyard.type.v1 import checks_pb2
from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.errors import Problem
from chassis.names import check_id
from chassis.rpc.checks import check_to_proto
from services.deploy.domain.capacity import check_room
from services.deploy.storage import queries
from services.deploy.storage.tables import DeploymentRow, EndpointRow
from services.deploy.usecases.acceptance import (
    Answers,
    Limits,
    check_name,
    check_own_pools,
    check_quota,
    check_quote,
    check_shape,
    promises,
)
from services.deploy.usecases.endpoints import MANAGED, SERVERLESS, check_endpoints_left
from services.deploy.usecases.versions import bring_up_to_date, check_heard


async def can_deploy(
    session: AsyncSession,
    now: datetime,
    *,
    project_uid: str,
    project: str,
    endpoint: str,
    request: deploy_pb2.CreateDeploymentRequest,
    answers: Answers,
    quote_problem: Problem | None,
    limits: Limits,
    endpoints_max: int,
) -> list[checks_pb2.Check]:
    """The catalog's answers, and deploy's own.

    Args:
        request: What would be created; an empty name or quote is left out.
        quote_problem: Why billing gave no quote; None where it gave one, or none was asked for.
    """
    owner = await queries.endpoint(session, project_uid, endpoint)
    existing = await queries.deployments_of(session, [owner.uid]) if owner else []
    heard = await _heard(session, answers.version)
    room = await _room(session, request, answers, limits)
    pooled = await queries.own_versions_on_pools(session, project_uid)
    checks = list(answers.checks)
    if owner is None:
        count = await queries.endpoint_count(session, project_uid)
        checks.append(
            _check(
                "endpoint",
                f"endpoint {endpoint!r} would be made",
                lambda: _new_endpoint(endpoint, project, count, endpoints_max),
            )
        )
    checks += [
        _check("hardware", "the endpoint takes it", lambda: check_shape(request, _kind(owner, request), endpoint)),
        _check("quota", "the endpoint may have one more", lambda: check_quota(endpoint, existing, limits)),
        _check("shared pool", "the project may have it there", lambda: _own_pools(pooled, project, answers, limits)),
        _check("capacity", "the platform has room", room),
        _check("news", "nothing newer was heard of the version", lambda: check_heard(heard)),
    ]
    if request.deployment_id:
        checks.append(_check("name", "the name is free", lambda: _name(request, endpoint, existing)))
    if request.quote:
        checks.append(
            _check(
                "quote",
                "the quote holds",
                lambda: _quote(quote_problem, answers.quote, request, answers.version.name, project_uid, now),
            )
        )
    return checks


def _check(subject: str, passed: str, question: Callable[[], None]) -> checks_pb2.Check:
    try:
        question()
    except Problem as refusal:
        return check_to_proto(subject, refusal.message, refusal)
    return check_to_proto(subject, passed, None)


def _kind(owner: EndpointRow | None, request: deploy_pb2.CreateDeploymentRequest) -> int:
    """Of an endpoint that is not there, what it would be made as."""
    if owner is not None:
        return owner.kind
    return MANAGED if request.instance_type else SERVERLESS


def _new_endpoint(endpoint: str, project: str, count: int, endpoints_max: int) -> None:
    check_id(endpoint, "endpoint_id")
    check_endpoints_left(project, count, endpoints_max)


def _own_pools(pooled: set[str], project: str, answers: Answers, limits: Limits) -> None:
    if answers.instance_type is None:
        check_own_pools(pooled, project, answers.version.name, limits)


def _name(request: deploy_pb2.CreateDeploymentRequest, endpoint: str, existing: list[DeploymentRow]) -> None:
    check_id(request.deployment_id, "deployment_id")
    check_name(request.deployment_id, endpoint, existing)


def _quote(
    problem: Problem | None,
    quote: billing_pb2.Quote,
    request: deploy_pb2.CreateDeploymentRequest,
    version: str,
    project_uid: str,
    now: datetime,
) -> None:
    if problem is not None:
        raise problem
    check_quote(quote, request, version, project_uid, now)


async def _heard(session: AsyncSession, version: catalog_pb2.ModelVersion) -> catalog_pb2.ModelVersion:
    current = catalog_pb2.ModelVersion.FromString(version.SerializeToString())
    seen = await queries.seen_version(session, version.uid)
    if seen is not None and bring_up_to_date(current, seen):
        return current
    # What the catalog says itself stands among its own answers.
    return catalog_pb2.ModelVersion(name=version.name)


async def _room(
    session: AsyncSession, request: deploy_pb2.CreateDeploymentRequest, answers: Answers, limits: Limits
) -> Callable[[], None]:
    """The question whether there is room, with all that it needs to know."""
    promised, version, shape = await promises(session), answers.version, answers.instance_type
    if shape is not None:
        return lambda: check_room(promised, limits.room, "", request.instance_count, shape.memory_bytes)
    if version.HasField("provider"):
        return lambda: None
    pool = await queries.pool_of_version(session, version.name)
    memory_bytes = version.serving.min_memory_bytes if pool is None else pool.memory_bytes
    return lambda: check_room(promised, limits.room, "" if pool is None else pool.uid, 1, memory_bytes)
