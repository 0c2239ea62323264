"""Versions as rows: what may change under a name, and what that changes."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import msgspec

from chassis.database import UnitOfWork
from services.catalog.domain.lifecycle import Dates, Stage, stage_at
from services.catalog.domain.records import Lifecycle, Struct, VersionRecord, identity_of
from services.catalog.storage.tables import VersionRow
from services.catalog.usecases.lifecycle import announce

# Kept in columns or in a row of their own.
_NOT_VERSION_FACTS = {"version", "position", "artifacts", "serving", "lifecycle", "origin"}
_encode = msgspec.json.Encoder().encode


def completes(row: VersionRow, version: VersionRecord) -> bool:
    """Whether a version that could not be deployed is now known in full: nobody holds another form of it.

    So are those behind a gate once it opens, and those that a newer release has an engine for.
    """
    if row.serving is not None or version.origin is not None:
        return False
    files = [(file["name"], file["sha256"], file["size_bytes"]) for file in row.artifacts]
    same_files = files == [(file["name"], file["sha256"], file["size_bytes"]) for file in _artifacts(version)]
    return not files or same_files


def change_version(uow: UnitOfWork, row: VersionRow, version: VersionRecord, now: datetime) -> bool:
    """Bring a stored version in line; False where it is."""
    # Only where the files lie may change: a wheel that was reinstalled elsewhere holds the same bytes.
    values = {**version_values(version), "identity": identity_of(version)}
    days = days_of(version.lifecycle)
    new_days = days != stored_days(row)
    if not new_days and all(getattr(row, column) == value for column, value in values.items()):
        return False
    for column, value in {**values, **days}.items():
        setattr(row, column, value)
    if new_days:
        announce(uow, row, lifecycle_stage(version.lifecycle, now), now)
    uow.session.add(row)
    return True


def version_values(version: VersionRecord) -> dict[str, Any]:
    """What a source may say anew of a version, as columns; its dates have columns of their own."""
    return {
        "position": version.position,
        "artifacts": _artifacts(version),
        "serving": version.serving,
        "facts": facts_of(msgspec.structs.replace(version, origin=None), _NOT_VERSION_FACTS),
    }


def facts_of(record: Struct, left_out: set[str]) -> dict[str, Any]:
    """A record as JSON gives it back, so that it can be compared with what is stored."""
    facts: dict[str, Any] = msgspec.json.decode(_encode(record))
    return {key: value for key, value in facts.items() if key not in left_out}


def _artifacts(version: VersionRecord) -> list[dict[str, Any]]:
    return [
        {"name": file.name, "sha256": file.sha256, "size_bytes": file.size_bytes, "uri": file.uri}
        for file in sorted(version.artifacts, key=lambda file: file.name)
    ]


def lifecycle_stage(lifecycle: Lifecycle, now: datetime) -> Stage:
    """The stage that a lifecycle's dates say."""
    return stage_at(lifecycle_dates(lifecycle), now)


def lifecycle_dates(lifecycle: Lifecycle) -> Dates:
    """The dates that decide a version's stage."""
    return Dates(lifecycle.preview, lifecycle.legacy, lifecycle.deprecation, lifecycle.retirement)


def days_of(lifecycle: Lifecycle) -> dict[str, Any]:
    """A lifecycle as columns."""
    return {
        "preview": lifecycle.preview,
        "legacy_date": _iso(lifecycle.legacy),
        "deprecation_date": _iso(lifecycle.deprecation),
        "retirement_date": _iso(lifecycle.retirement),
        "fine_tune_deprecation_date": _iso(lifecycle.fine_tune_deprecation),
        "fine_tune_retirement_date": _iso(lifecycle.fine_tune_retirement),
        "replacement": lifecycle.replacement,
    }


def stored_days(row: VersionRow) -> dict[str, Any]:
    """The lifecycle that is stored, as columns."""
    return {column: getattr(row, column) for column in days_of(Lifecycle())}


def _iso(day: date | None) -> str:
    return day.isoformat() if day else ""
