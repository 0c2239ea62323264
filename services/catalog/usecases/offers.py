"""Where external providers answer: what makes a model usable that has no weights here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from modelyard.catalog.v1 import providers_pb2

from chassis.database import UnitOfWork
from services.catalog.sources.interface import Failure
from services.catalog.storage.queries.models import models as stored_models
from services.catalog.storage.queries.models import newest_change, versions
from services.catalog.storage.queries.sources import forget_listed
from services.catalog.storage.tables import ModelRow
from services.catalog.usecases.lifecycle import announce, stage_of

RUNS_HERE, NEEDS_CREDENTIAL = "RUNS_HERE", "NEEDS_PROVIDER_CREDENTIAL"
_NO_CREDENTIAL = "no source with a credential at its provider lists it"


async def put_offers(
    uow: UnitOfWork, now: datetime, source: str, targets: Mapping[str, providers_pb2.ProviderTarget]
) -> tuple[list[str], list[Failure]]:
    """Let models be answered by a source's provider; what is there already stays untouched.

    Args:
        targets: By resource name of models that are stored.

    Returns:
        Models whose offer is new or another one, and those that take none.
    """
    rows = await stored_models(uow.session, list(targets))
    newest = await versions(uow.session, [row.latest_version for row in rows.values()])
    sequence = await newest_change(uow.session)
    changed, failures = [], []
    for name, target in targets.items():
        row, content = rows[name], target.SerializeToString(deterministic=True)
        if (why := _why_not(row, source)) is not None:
            failures.append(Failure(name, "name", why))
        elif row.provider_target != content:
            sequence += 1
            row.provider_source, row.provider_target = source, content
            row.usability, row.usability_detail, row.change_sequence = RUNS_HERE, "", sequence
            uow.session.add(row)
            version = newest[row.latest_version]
            # Deployments of it call the provider where it answers now.
            announce(uow, version, stage_of(version, now), now, provider=target)
            changed.append(name)
    return changed, failures


def _why_not(row: ModelRow, source: str) -> str | None:
    if row.provider_source:
        if row.provider_source == source:
            return None
        return f"source {row.provider_source!r} offers {row.name!r} already; exclude it in one of the two"
    if row.source == source:
        return None
    if row.usability != NEEDS_CREDENTIAL:
        return f"{row.name!r} came from {row.source!r} and needs no provider; exclude it, or name another publisher"
    if "SERVERLESS" not in row.facts.get("deployment_options", ()):
        return f"{row.name!r} is not offered serverless; exclude it, or name another publisher"
    return None


async def withdraw_models(uow: UnitOfWork, now: datetime, source: str, names: Sequence[str]) -> None:
    """Close models that left a source to new deployments; those that it only answered for need a credential again.

    Deployments of them go on.
    """
    rows = await stored_models(uow.session, names)
    sequence = await newest_change(uow.session)
    await forget_listed(uow, source, [row.name for row in rows.values() if row.source != source])
    for row in rows.values():
        sequence += 1
        if row.provider_source == source:
            row.provider_source, row.provider_target = "", b""
            row.usability, row.usability_detail = NEEDS_CREDENTIAL, _NO_CREDENTIAL
        row.change_sequence, row.update_time = sequence, now
        row.withdrawn = row.withdrawn or row.source == source
        uow.session.add(row)
