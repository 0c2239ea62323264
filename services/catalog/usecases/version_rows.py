"""Versions as rows: what may change under a name, and what that changes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from chassis.database import UnitOfWork
from services.catalog.domain.lifecycle import Dates, Stage, stage_at
from services.catalog.domain.records import Lifecycle
from services.catalog.storage.tables import VersionRow
from services.catalog.usecases.lifecycle import announce
from services.catalog.usecases.prepare_models import PreparedVersion, days_of


def completes(row: VersionRow, version: PreparedVersion) -> bool:
    """Whether a version that could not be deployed is now known in full: nobody holds another form of it.

    So are those behind a gate once it opens, and those that a newer release has an engine for.
    """
    if row.serving is not None or version.origin is not None:
        return False
    files = [(file["name"], file["sha256"], file["size_bytes"]) for file in row.artifacts]
    said = version.values["artifacts"]
    same_files = files == [(file["name"], file["sha256"], file["size_bytes"]) for file in said]
    return not files or same_files


def change_version(uow: UnitOfWork, row: VersionRow, version: PreparedVersion, now: datetime) -> bool:
    """Bring a stored version in line; False where it is."""
    # Only where the files lie may change: a wheel that was reinstalled elsewhere holds the same bytes.
    values = {**version.values, "identity": version.identity}
    new_days = version.days != stored_days(row)
    if not new_days and all(getattr(row, column) == value for column, value in values.items()):
        return False
    for column, value in {**values, **version.days}.items():
        setattr(row, column, value)
    if new_days:
        announce(uow, row, lifecycle_stage(version.record.lifecycle, now), now)
    uow.session.add(row)
    return True


def lifecycle_stage(lifecycle: Lifecycle, now: datetime) -> Stage:
    """The stage that a lifecycle's dates say."""
    return stage_at(lifecycle_dates(lifecycle), now)


def lifecycle_dates(lifecycle: Lifecycle) -> Dates:
    """The dates that decide a version's stage."""
    return Dates(lifecycle.preview, lifecycle.legacy, lifecycle.deprecation, lifecycle.retirement)


def stored_days(row: VersionRow) -> dict[str, Any]:
    """The lifecycle that is stored, as columns."""
    return {column: getattr(row, column) for column in days_of(Lifecycle())}
