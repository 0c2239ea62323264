"""What deploy has heard of versions: news that overtakes a decision is not missed.

The catalog is asked before the transaction. What it announces between its answer and the commit reaches deploy as an
event, maybe before any deployment of the version is there to be changed. So the newest event of each version is kept;
who hears one and who makes a deployment take turns on its row.
"""

from __future__ import annotations

from modelyard.catalog.v1 import catalog_pb2, events_pb2

from chassis.database import Database, UnitOfWork
from services.deploy.domain.errors import VersionDeprecated, VersionRetired
from services.deploy.storage import queries
from services.deploy.storage.tables import SeenVersionRow


async def hear(
    uow: UnitOfWork, database: Database, uid: str, changed: events_pb2.VersionLifecycleChanged, sequence: int
) -> SeenVersionRow:
    """Keep what the catalog announced of a version, unless something newer was heard; return the newest.

    Where its provider answers is announced only when that changes, so it is kept beside what is newer.
    """
    seen = await queries.seen_version_locked(uow, database, uid, changed.model_version)
    kept = events_pb2.VersionLifecycleChanged.FromString(seen.change)
    older, newer = (kept, changed) if seen.sequence < sequence else (changed, kept)
    if older.HasField("provider") and not newer.HasField("provider"):
        newer.provider.CopyFrom(older.provider)
    seen.sequence, seen.change = max(seen.sequence, sequence), newer.SerializeToString(deterministic=True)
    uow.session.add(seen)
    return seen


async def caught_up(uow: UnitOfWork, database: Database, version: catalog_pb2.ModelVersion) -> catalog_pb2.ModelVersion:
    """A version as the catalog described it, with what was heard of it since.

    Until the transaction ends nothing else is heard of it: what comes then finds the deployment.

    Raises:
        VersionRetired, VersionDeprecated: it takes no new deployments any more.
    """
    seen = await queries.seen_version_locked(uow, database, version.uid, version.name)
    current = catalog_pb2.ModelVersion.FromString(version.SerializeToString())
    bring_up_to_date(current, seen)
    check_heard(current)
    return current


def bring_up_to_date(facts: catalog_pb2.ModelVersion, seen: SeenVersionRow) -> bool:
    """Change facts to what was heard; return whether it was news. A version's etag is the sequence of its last event."""
    if facts.etag.isdecimal() and int(facts.etag) >= seen.sequence:
        return False
    changed = events_pb2.VersionLifecycleChanged.FromString(seen.change)
    facts.etag, facts.stage, facts.replacement = str(seen.sequence), changed.stage, changed.replacement
    for field in ("deprecation_time", "retire_time"):
        facts.ClearField(field)
        if changed.HasField(field):
            getattr(facts, field).CopyFrom(getattr(changed, field))
    if changed.HasField("provider"):
        facts.provider.CopyFrom(changed.provider)
    return True


def check_heard(version: catalog_pb2.ModelVersion) -> None:
    """Refuse what was retired or deprecated after the catalog was asked.

    Raises:
        VersionRetired, VersionDeprecated: naming the version and the way out.
    """
    way_out = f"deploy {version.replacement} instead" if version.replacement else "`modelyard models` shows others"
    if version.stage == catalog_pb2.LIFECYCLE_STAGE_RETIRED:
        raise VersionRetired(f"{version.name} was retired a moment ago; {way_out}")
    if version.stage == catalog_pb2.LIFECYCLE_STAGE_DEPRECATED:
        raise VersionDeprecated(f"{version.name} was deprecated a moment ago and takes no new deployments; {way_out}")
