"""Reading deploy's rows. What a decision reads is locked, always in this order: project, endpoint, version, deployment,
pool."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Select, Table, func, select, text, tuple_, type_coerce
from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.database import Database, UnitOfWork
from services.deploy.domain.deployments import DeploymentState, InstanceState
from services.deploy.storage.tables import (
    ApiKeyRow,
    DeploymentRow,
    EndpointRow,
    InstanceRow,
    NoticeRow,
    PoolRow,
    ProjectRow,
    SeenVersionRow,
    TrialRow,
)


def table(row_class: Any) -> Table:
    """The SQLAlchemy table of a row class."""
    found: Table = row_class.__table__
    return found


_PROJECT, _KEY, _ENDPOINT = table(ProjectRow), table(ApiKeyRow), table(EndpointRow)
_DEPLOYMENT, _INSTANCE, _POOL = table(DeploymentRow), table(InstanceRow), table(PoolRow)
_SEEN = table(SeenVersionRow)


async def _one(session: AsyncSession, query: Select[Any]) -> Any:
    return (await session.execute(query)).scalar_one_or_none()


async def _all(session: AsyncSession, query: Select[Any]) -> list[Any]:
    return list((await session.execute(query)).scalars())


async def project(session: AsyncSession, name_or_uid: str) -> ProjectRow | None:
    """A project by name or uid."""
    row: ProjectRow | None = await _one(
        session, select(ProjectRow).where((_PROJECT.c.name == name_or_uid) | (_PROJECT.c.uid == name_or_uid))
    )
    return row


async def project_locked(session: AsyncSession, database: Database, uid: str) -> ProjectRow:
    """A project that is about to change."""
    row: ProjectRow = (
        await session.execute(database.locking(select(ProjectRow).where(_PROJECT.c.uid == uid)))
    ).scalar_one()
    return row


async def projects_page(session: AsyncSession, after: str, limit: int) -> list[ProjectRow]:
    """Projects after a name, in name order."""
    return await _all(session, select(ProjectRow).where(_PROJECT.c.name > after).order_by(_PROJECT.c.name).limit(limit))


async def api_key(session: AsyncSession, project_uid: str, key_id: str) -> ApiKeyRow | None:
    """One key of a project."""
    row: ApiKeyRow | None = await _one(
        session, select(ApiKeyRow).where(_KEY.c.id == key_id, _KEY.c.project_uid == project_uid)
    )
    return row


async def api_keys_page(session: AsyncSession, project_uid: str, after: tuple[int, str], limit: int) -> list[ApiKeyRow]:
    """Keys of a project after (creation in Unix microseconds, id), newest first."""
    created_us, key_id = after
    create_us = type_coerce(_KEY.c.create_time, BigInteger)
    return await _all(
        session,
        select(ApiKeyRow)
        .where(
            _KEY.c.project_uid == project_uid,
            (create_us < created_us) | ((create_us == created_us) & (_KEY.c.id > key_id)),
        )
        .order_by(create_us.desc(), _KEY.c.id)
        .limit(limit),
    )


async def endpoint_keys(session: AsyncSession, endpoint_uid: str, kind: int | None = None) -> list[ApiKeyRow]:
    """Keys of one endpoint that are not revoked."""
    query = select(ApiKeyRow).where(_KEY.c.endpoint_uid == endpoint_uid, _KEY.c.revoke_time.is_(None))
    return await _all(session, query if kind is None else query.where(_KEY.c.kind == kind))


async def endpoint(session: AsyncSession, project_uid: str, name: str) -> EndpointRow | None:
    """A project's endpoint by its name."""
    row: EndpointRow | None = await _one(
        session,
        select(EndpointRow).where(
            _ENDPOINT.c.project_uid == project_uid, _ENDPOINT.c.name == name, _ENDPOINT.c.deleted.is_(False)
        ),
    )
    return row


async def endpoint_locked(session: AsyncSession, database: Database, project_uid: str, name: str) -> EndpointRow | None:
    """A project's endpoint that is about to change. One statement finds and locks it: what it reads is never stale."""
    row: EndpointRow | None = await _one(
        session,
        database.locking(
            select(EndpointRow).where(
                _ENDPOINT.c.project_uid == project_uid, _ENDPOINT.c.name == name, _ENDPOINT.c.deleted.is_(False)
            )
        ),
    )
    return row


async def endpoint_by_uid_locked(session: AsyncSession, database: Database, uid: str) -> EndpointRow | None:
    """A living endpoint that is about to change, by its uid."""
    row: EndpointRow | None = await _one(
        session,
        database.locking(select(EndpointRow).where(_ENDPOINT.c.uid == uid, _ENDPOINT.c.deleted.is_(False))),
    )
    return row


async def trials(session: AsyncSession) -> list[TrialRow]:
    """Every model that is tried; a handful."""
    return await _all(session, select(TrialRow))


async def trial(session: AsyncSession, endpoint_uid: str) -> TrialRow:
    """The trial behind an endpoint."""
    row: TrialRow = (
        await session.execute(select(TrialRow).where(table(TrialRow).c.endpoint_uid == endpoint_uid))
    ).scalar_one()
    return row


async def trials_unused_since(session: AsyncSession, moment: datetime) -> list[TrialRow]:
    """Trials that nobody kept since then."""
    return await _all(session, select(TrialRow).where(table(TrialRow).c.use_time <= moment))


async def endpoints_page(session: AsyncSession, project_uid: str, after: str, limit: int) -> list[EndpointRow]:
    """A project's endpoints after a name, in name order."""
    return await _all(
        session,
        select(EndpointRow)
        .where(_ENDPOINT.c.project_uid == project_uid, _ENDPOINT.c.name > after, _ENDPOINT.c.deleted.is_(False))
        .order_by(_ENDPOINT.c.name)
        .limit(limit),
    )


async def endpoint_names(session: AsyncSession, uids: Collection[str]) -> dict[str, str]:
    """Names of those endpoints that live, by uid."""
    query = select(_ENDPOINT.c.uid, _ENDPOINT.c.name).where(_ENDPOINT.c.uid.in_(uids), _ENDPOINT.c.deleted.is_(False))
    return {row.uid: row.name for row in await session.execute(query)}


async def endpoint_count(session: AsyncSession, project_uid: str) -> int:
    """How many endpoints a project has."""
    query = (
        select(func.count())
        .select_from(_ENDPOINT)
        .where(_ENDPOINT.c.project_uid == project_uid, _ENDPOINT.c.deleted.is_(False))
    )
    return int((await session.execute(query)).scalar_one())


async def endpoints_with_routes(session: AsyncSession, database: Database) -> list[EndpointRow]:
    """Endpoints that live, and deleted ones whose route is not taken back yet; locked."""
    query = select(EndpointRow).where(_ENDPOINT.c.deleted.is_(False) | (_ENDPOINT.c.route_digest != ""))
    return await _all(session, database.locking(query.order_by(_ENDPOINT.c.uid)))


async def deployment(session: AsyncSession, endpoint_uid: str, name: str) -> DeploymentRow | None:
    """A deployment behind an endpoint by its name."""
    row: DeploymentRow | None = await _one(
        session,
        select(DeploymentRow).where(
            _DEPLOYMENT.c.endpoint_uid == endpoint_uid,
            _DEPLOYMENT.c.name == name,
            _DEPLOYMENT.c.state != DeploymentState.DELETED,
        ),
    )
    return row


async def deployment_locked(
    session: AsyncSession, database: Database, endpoint_uid: str, name: str
) -> DeploymentRow | None:
    """A deployment that is about to change."""
    row: DeploymentRow | None = await _one(
        session,
        database.locking(
            select(DeploymentRow).where(
                _DEPLOYMENT.c.endpoint_uid == endpoint_uid,
                _DEPLOYMENT.c.name == name,
                _DEPLOYMENT.c.state != DeploymentState.DELETED,
            )
        ),
    )
    return row


async def deployment_by_uid(session: AsyncSession, uid: str) -> DeploymentRow | None:
    """A deployment, also one that is deleted."""
    row: DeploymentRow | None = await _one(session, select(DeploymentRow).where(_DEPLOYMENT.c.uid == uid))
    return row


async def deployment_resources(session: AsyncSession, uids: Collection[str]) -> dict[str, str]:
    """Resource names of deployments by uid, also of those that are deleted."""
    query = select(_DEPLOYMENT.c.uid, _DEPLOYMENT.c.resource).where(_DEPLOYMENT.c.uid.in_(uids))
    return {row.uid: row.resource for row in await session.execute(query)}


async def deployments_of(session: AsyncSession, endpoint_uids: Sequence[str]) -> list[DeploymentRow]:
    """Deployments behind endpoints, those being deleted too, in name order."""
    return await _all(
        session,
        select(DeploymentRow)
        .where(_DEPLOYMENT.c.endpoint_uid.in_(endpoint_uids), _DEPLOYMENT.c.state != DeploymentState.DELETED)
        .order_by(_DEPLOYMENT.c.resource),
    )


async def deployments_of_locked(session: AsyncSession, database: Database, endpoint_uid: str) -> list[DeploymentRow]:
    """Deployments behind one endpoint that are about to change."""
    query = select(DeploymentRow).where(
        _DEPLOYMENT.c.endpoint_uid == endpoint_uid, _DEPLOYMENT.c.state != DeploymentState.DELETED
    )
    return await _all(session, database.locking(query.order_by(_DEPLOYMENT.c.uid)))


async def deployments_page(
    session: AsyncSession, project_uid: str, endpoint_uid: str, after: tuple[str, str], limit: int
) -> list[DeploymentRow]:
    """Deployments of a project (or of one endpoint) after (resource name, uid), in that order.

    Two have one name while one of a deleted endpoint ends and another takes its place.
    """
    query = (
        select(DeploymentRow)
        .where(
            _DEPLOYMENT.c.project_uid == project_uid,
            tuple_(_DEPLOYMENT.c.resource, _DEPLOYMENT.c.uid) > after,
            _DEPLOYMENT.c.state != DeploymentState.DELETED,
        )
        .order_by(_DEPLOYMENT.c.resource, _DEPLOYMENT.c.uid)
        .limit(limit)
    )
    return await _all(session, query.where(_DEPLOYMENT.c.endpoint_uid == endpoint_uid) if endpoint_uid else query)


async def own_versions_on_pools(session: AsyncSession, project_uid: str) -> set[str]:
    """Versions of a project's own models that its serverless deployments serve."""
    query = select(_DEPLOYMENT.c.model_version).where(
        _DEPLOYMENT.c.project_uid == project_uid,
        _DEPLOYMENT.c.pool_uid != "",
        _DEPLOYMENT.c.state != int(DeploymentState.DELETED),
        _DEPLOYMENT.c.deleting.is_(False),
        _DEPLOYMENT.c.model_version.like("projects/%"),
    )
    return set((await session.execute(query)).scalars())


async def living_deployments(session: AsyncSession) -> list[DeploymentRow]:
    """Every deployment that is not deleted."""
    return await _all(session, select(DeploymentRow).where(_DEPLOYMENT.c.state != DeploymentState.DELETED))


async def living_deployments_locked(session: AsyncSession, database: Database) -> list[DeploymentRow]:
    """Every deployment that is not deleted, about to change."""
    query = select(DeploymentRow).where(_DEPLOYMENT.c.state != DeploymentState.DELETED)
    return await _all(session, database.locking(query.order_by(_DEPLOYMENT.c.uid)))


async def deployments_of_version_locked(
    session: AsyncSession, database: Database, model_version: str
) -> list[DeploymentRow]:
    """Deployments that serve a version and are not deleted, about to change."""
    query = select(DeploymentRow).where(
        _DEPLOYMENT.c.model_version == model_version, _DEPLOYMENT.c.state != DeploymentState.DELETED
    )
    return await _all(session, database.locking(query.order_by(_DEPLOYMENT.c.uid)))


async def seen_version(session: AsyncSession, uid: str) -> SeenVersionRow | None:
    """The newest that was heard of a version."""
    row: SeenVersionRow | None = await _one(session, select(SeenVersionRow).where(_SEEN.c.uid == uid))
    return row


async def seen_version_locked(uow: UnitOfWork, database: Database, uid: str, model_version: str) -> SeenVersionRow:
    """The newest that was heard of a version, about to count or to change; made where nothing was heard."""
    made = SeenVersionRow(uid=uid, model_version=model_version, sequence=0, change=b"")
    await database.insert_ignoring(uow, _SEEN, [made.model_dump()], returning=[_SEEN.c.uid])
    query = database.locking(select(SeenVersionRow).where(_SEEN.c.uid == uid))
    row: SeenVersionRow = (await uow.session.execute(query)).scalar_one()
    return row


async def notices_page(session: AsyncSession, project_uid: str, before: str, limit: int) -> list[NoticeRow]:
    """Notices of a project before a uid, newest first; uids are in time order."""
    columns = table(NoticeRow).c
    query = select(NoticeRow).where(columns.project_uid == project_uid).order_by(columns.uid.desc()).limit(limit)
    return await _all(session, query.where(columns.uid < before) if before else query)


async def pools(session: AsyncSession) -> list[PoolRow]:
    """Every pool."""
    return await _all(session, select(PoolRow))


async def pools_locked(session: AsyncSession, database: Database) -> list[PoolRow]:
    """Every pool, about to change."""
    return await _all(session, database.locking(select(PoolRow).order_by(_POOL.c.uid)))


async def pool_of_version(session: AsyncSession, model_version: str) -> PoolRow | None:
    """The pool of a version; None where nobody has deployed it yet."""
    row: PoolRow | None = await _one(session, select(PoolRow).where(_POOL.c.model_version == model_version))
    return row


async def pool_of_version_locked(session: AsyncSession, database: Database, model_version: str) -> PoolRow:
    """The pool of a version, about to change."""
    query = database.locking(select(PoolRow).where(_POOL.c.model_version == model_version))
    row: PoolRow = (await session.execute(query)).scalar_one()
    return row


async def lock_capacity(session: AsyncSession, database: Database) -> None:
    """Let one transaction at a time promise instances; taken last. SQLite has one writer anyway."""
    if not database.is_sqlite:
        await session.execute(text("select pg_advisory_xact_lock(hashtext('modelyard.deploy.capacity'))"))


async def living_instances(session: AsyncSession) -> list[InstanceRow]:
    """Instances that are not released, oldest first."""
    return await _all(
        session,
        select(InstanceRow)
        .where(_INSTANCE.c.state != InstanceState.RELEASED)
        .order_by(_INSTANCE.c.allocate_ms, _INSTANCE.c.uid),
    )


async def instances_of(session: AsyncSession, deployment_uids: Sequence[str]) -> list[InstanceRow]:
    """Instances of deployments that are not released, oldest first."""
    return await _all(
        session,
        select(InstanceRow)
        .where(_INSTANCE.c.deployment_uid.in_(deployment_uids), _INSTANCE.c.state != InstanceState.RELEASED)
        .order_by(_INSTANCE.c.allocate_ms, _INSTANCE.c.uid),
    )


async def ready_of_pools(session: AsyncSession, pool_uids: Collection[str]) -> dict[str, int]:
    """How many instances of each pool answer."""
    query = (
        select(_INSTANCE.c.pool_uid, func.count().label("ready"))
        .where(_INSTANCE.c.pool_uid.in_(pool_uids), _INSTANCE.c.state == InstanceState.READY)
        .group_by(_INSTANCE.c.pool_uid)
    )
    return {row.pool_uid: row.ready for row in await session.execute(query)}


async def instance_of(session: AsyncSession, deployment_uid: str, uid: str) -> InstanceRow | None:
    """An instance of a deployment, also one that ended; without a uid the oldest that lives, else the last that ended."""
    query = select(InstanceRow).where(_INSTANCE.c.deployment_uid == deployment_uid)
    row: InstanceRow | None
    if uid:
        row = await _one(session, query.where(_INSTANCE.c.uid == uid))
        return row
    living = query.where(_INSTANCE.c.state != InstanceState.RELEASED)
    row = await _one(session, living.order_by(_INSTANCE.c.allocate_ms, _INSTANCE.c.uid).limit(1))
    newest = query.order_by(_INSTANCE.c.allocate_ms.desc(), _INSTANCE.c.uid.desc()).limit(1)
    return row or await _one(session, newest)


async def instances_page(session: AsyncSession, after: str, limit: int, *, show_released: bool) -> list[InstanceRow]:
    """Instances of the platform after a uid; uids are in time order."""
    query = select(InstanceRow).where(_INSTANCE.c.uid > after).order_by(_INSTANCE.c.uid).limit(limit)
    return await _all(session, query if show_released else query.where(_INSTANCE.c.state != InstanceState.RELEASED))


async def newest_instance_ms(session: AsyncSession) -> int:
    """The newest moment that was stored of any instance; 0 when there is none."""
    query = select(func.max(_INSTANCE.c.through_ms))
    return int((await session.execute(query)).scalar_one_or_none() or 0)
