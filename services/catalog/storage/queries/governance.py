"""Licence acceptances and policies, and what a policy refuses."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ColumnElement, func, or_, select
from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.database import Database, UnitOfWork
from services.catalog.domain.policy import BLOCKED, COLLECTIONS, LICENSES, PUBLISHERS, Policy
from services.catalog.storage.queries.pages import table
from services.catalog.storage.tables import LicenseAcceptanceRow, ModelRow, PolicyRow

_ACCEPTANCE, _POLICY, _MODEL = table(LicenseAcceptanceRow), table(PolicyRow), table(ModelRow)


async def acceptance(session: AsyncSession, project_uid: str, digest: str) -> LicenseAcceptanceRow | None:
    """A project's acceptance of one text."""
    query = select(LicenseAcceptanceRow).where(_ACCEPTANCE.c.project_uid == project_uid, _ACCEPTANCE.c.digest == digest)
    return (await session.execute(query)).scalar_one_or_none()


async def is_accepted(session: AsyncSession, project_uids: Collection[str], digest: str) -> bool:
    """Whether any of some projects has accepted a text."""
    query = select(_ACCEPTANCE.c.digest).where(
        _ACCEPTANCE.c.digest == digest, _ACCEPTANCE.c.project_uid.in_(sorted(project_uids))
    )
    return (await session.execute(query.limit(1))).first() is not None


async def acceptances_page(
    session: AsyncSession, project_uid: str, after: str, limit: int
) -> list[LicenseAcceptanceRow]:
    """A project's acceptances after a digest, by digest."""
    query = (
        select(LicenseAcceptanceRow)
        .where(_ACCEPTANCE.c.project_uid == project_uid, _ACCEPTANCE.c.digest > after)
        .order_by(_ACCEPTANCE.c.digest)
        .limit(limit)
    )
    return list((await session.execute(query)).scalars())


async def add_acceptance(uow: UnitOfWork, database: Database, row: LicenseAcceptanceRow) -> LicenseAcceptanceRow:
    """Keep an acceptance unless the project has given one of this text; return the one that stands."""
    await database.insert_ignoring(uow, _ACCEPTANCE, [row.model_dump()], returning=[_ACCEPTANCE.c.digest])
    return await acceptance(uow.session, row.project_uid, row.digest) or row


async def policy(session: AsyncSession, project_uid: str) -> PolicyRow | None:
    """A project's policy; None where it has none."""
    return (await session.execute(select(PolicyRow).where(_POLICY.c.project_uid == project_uid))).scalar_one_or_none()


async def policy_locked(session: AsyncSession, database: Database, project_uid: str) -> PolicyRow | None:
    """A policy that is about to change."""
    query = database.locking(select(PolicyRow).where(_POLICY.c.project_uid == project_uid))
    return (await session.execute(query)).scalar_one_or_none()


async def model_counts(session: AsyncSession, project_uid: str, rules: Policy) -> tuple[int, int]:
    """How many models a project sees, and how many of them the rules refuse."""
    seen = select(func.count()).select_from(_MODEL).where(_seen_by(project_uid))
    counts = [(await session.execute(query)).scalar_one() for query in (seen, seen.where(_refused_by(rules)))]
    return int(counts[0]), int(counts[1])


async def refused_models_page(
    session: AsyncSession, project_uid: str, rules: Policy, after: str, limit: int
) -> list[ModelRow]:
    """Models that a project sees and whose newest version the rules refuse, after a name, by name."""
    query = (
        select(ModelRow)
        .where(_seen_by(project_uid), _refused_by(rules), _MODEL.c.name > after)
        .order_by(_MODEL.c.name)
        .limit(limit)
    )
    return list((await session.execute(query)).scalars())


async def matched_entries(session: AsyncSession, rules: Policy) -> dict[str, set[str]]:
    """The entries of each rule that name something in the catalog; blocked versions are looked up elsewhere."""
    columns = {COLLECTIONS: "collection", PUBLISHERS: "publisher", LICENSES: "license_id", BLOCKED: "name"}
    matched = {}
    for rule, entries in rules.lists().items():
        column = _MODEL.c[columns[rule]]
        query = select(column).where(column.in_(entries)).group_by(column)
        matched[rule] = set((await session.execute(query)).scalars()) if entries else set()
    return matched


def _seen_by(project_uid: str) -> ColumnElement[bool]:
    return _MODEL.c.project_uid.in_(["", project_uid])


def _refused_by(rules: Policy) -> ColumnElement[bool]:
    """What `domain.policy.violations` finds in the newest version of a model, as the database finds it."""
    refusals = [
        column.not_in(allowed)
        for column, allowed in (
            (_MODEL.c.collection, rules.allowed_collections),
            (_MODEL.c.publisher, rules.allowed_publishers),
            (_MODEL.c.license_id, rules.allowed_licenses),
        )
        if allowed
    ]
    return or_(*refusals, _MODEL.c.name.in_(rules.blocked), _MODEL.c.latest_version.in_(rules.blocked))
