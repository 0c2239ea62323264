"""A project's policy: read it, change it, and see what it would refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.clock import Clock
from chassis.database import Database
from chassis.errors import EtagMismatch
from services.catalog.domain.policy import BLOCKED, Policed, Policy, check_policy, violations
from services.catalog.storage.queries import governance
from services.catalog.storage.queries import models as stored
from services.catalog.storage.tables import ModelRow, PolicyRow


@dataclass(frozen=True, slots=True)
class Deployed:
    """A deployment of the project, by its resource name and its version's."""

    name: str
    model_version: str


@dataclass(frozen=True, slots=True)
class Refused:
    """What a policy refuses, by the resource name of the model or the deployment."""

    name: str
    model_version: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PolicyTried:
    """What a policy would refuse."""

    model_count: int
    refused_model_count: int
    deployment_count: int
    refused_deployments: list[Refused]
    # Entries that match nothing in the catalog now.
    unmatched: list[str]


async def update_policy(
    database: Database, clock: Clock, *, principal: str, project_uid: str, policy: Policy, etag: str, entries_max: int
) -> PolicyRow:
    """Replace the policy; the same again changes nothing.

    Raises:
        PolicyInvalid: see `check_policy`.
        EtagMismatch: it changed since it was read.
    """
    checked = check_policy(policy, entries_max)
    async with database.unit_of_work() as uow:
        row = await governance.policy_locked(uow.session, database, project_uid)
        if row is not None and policy_of(row) == checked:
            return row
        revision = 0 if row is None else row.revision
        if etag and etag != str(revision):
            raise EtagMismatch(f"the policy has etag {revision} now, not {etag[:32]!r}; read it again", field="etag")
        changed: dict[str, Any] = {
            **{rule: list(entries) for rule, entries in checked.lists().items()},
            "revision": revision + 1,
            "principal": principal,
            "update_time": clock.now(),
        }
        if row is None:
            row = PolicyRow(project_uid=project_uid, **changed)
        for column, value in changed.items():
            setattr(row, column, value)
        uow.session.add(row)
        return row


async def policy_in_force(session: AsyncSession, project_uid: str) -> Policy:
    """A project's policy as rules; without one everything is allowed."""
    row = await governance.policy(session, project_uid)
    return Policy() if row is None else policy_of(row)


async def try_policy(
    session: AsyncSession, project_uid: str, policy: Policy, deployed: Sequence[Deployed]
) -> PolicyTried:
    """What a policy would refuse; nothing changes."""
    total, refused = await governance.model_counts(session, project_uid, policy)
    versions = await stored.versions(session, sorted({one.model_version for one in deployed}))
    models = await stored.models(session, sorted({row.model for row in versions.values()}))
    matched = await governance.matched_entries(session, policy)
    matched[BLOCKED] |= (await stored.versions(session, policy.blocked)).keys()
    found = []
    for one in deployed:
        version = versions.get(one.model_version)
        if version is not None and (rules := _rules(policy, models[version.model], version.name)):
            found.append(Refused(one.name, version.name, rules))
    return PolicyTried(
        model_count=total,
        refused_model_count=refused,
        deployment_count=len(deployed),
        refused_deployments=found,
        unmatched=[
            entry for rule, entries in policy.lists().items() for entry in entries if entry not in matched[rule]
        ],
    )


async def refused_models(
    session: AsyncSession, project_uid: str, policy: Policy, after: str, limit: int
) -> list[Refused]:
    """Models after a name whose newest version a policy refuses, by name."""
    rows = await governance.refused_models_page(session, project_uid, policy, after, limit)
    return [Refused(row.name, row.latest_version, _rules(policy, row, row.latest_version)) for row in rows]


def policed(model: ModelRow, version: str) -> Policed:
    """What rules look at."""
    return Policed(model.collection, model.publisher, model.license_id, model.name, version)


def policy_of(row: PolicyRow) -> Policy:
    """A stored policy as rules."""
    return Policy(*(tuple(getattr(row, rule)) for rule in Policy().lists()))


def _rules(policy: Policy, model: ModelRow, version: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(violation.rule for violation in violations(policy, policed(model, version))))
