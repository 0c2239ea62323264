"""Records as columns: all that can be worked out of them before writers take turns."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import msgspec

from services.catalog.domain.names import MODEL
from services.catalog.domain.records import Lifecycle, ModelRecord, Struct, VersionRecord, digest_of, identity_of

# Kept in columns, in rows of their own, or not at all.
_NOT_FACTS = {
    "publisher",
    "model",
    "collection",
    "display_name",
    "license",
    "usability",
    "usability_detail",
    "card",
    "notes",
    "evaluation",
    "versions",
}
_NOT_VERSION_FACTS = {"version", "position", "artifacts", "serving", "lifecycle", "origin"}
_DEFLATE_FAST = 1
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class PreparedVersion:
    """A version.

    Attributes:
        values: What a source may say anew, as columns.
        days: Its lifecycle, as columns.
        origin: What its publisher wrote, deflated JSON; None where there is nothing to give back.
    """

    record: VersionRecord
    name: str
    identity: str
    values: dict[str, Any]
    days: dict[str, Any]
    origin: bytes | None


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model.

    Attributes:
        digest: Of all that is said of it.
        values: Its columns, texts and numbers of the catalog's own apart.
    """

    record: ModelRecord
    name: str
    digest: str
    values: dict[str, Any]
    versions: tuple[PreparedVersion, ...]

    @property
    def texts(self) -> dict[str, str]:
        """Its long texts, as columns."""
        return {"card": self.record.card, "notes": self.record.notes, "evaluation": self.record.evaluation}


def prepare_models(records: Sequence[ModelRecord]) -> list[PreparedModel]:
    """Some models; it takes processor time and nothing else, so a thread can do it while another call writes."""
    return [_prepare(record) for record in records]


def _prepare(record: ModelRecord) -> PreparedModel:
    name = MODEL.format(publisher=record.publisher, model=record.model)
    text = record.license.text
    facts = _facts_of(msgspec.structs.replace(record, versions=(), card="", notes="", evaluation=""), _NOT_FACTS)
    values = {
        "publisher": record.publisher,
        "collection": record.collection,
        "display_name": record.display_name,
        "license_id": record.license.id,
        "license_digest": hashlib.sha256(text.encode()).hexdigest() if text else "",
        "usability": record.usability,
        "usability_detail": record.usability_detail,
        "facts": facts | {"license_url": record.license.url, "acceptance_required": record.license.acceptance_required},
        "latest_version": f"{name}/versions/{record.versions[-1].version}",
        "withdrawn": record.archived,
    }
    return PreparedModel(
        record, name, digest_of(record), values, tuple(_prepare_version(name, one) for one in record.versions)
    )


def _prepare_version(model: str, version: VersionRecord) -> PreparedVersion:
    return PreparedVersion(
        record=version,
        name=f"{model}/versions/{version.version}",
        identity=identity_of(version),
        values=_version_values(version),
        days=days_of(version.lifecycle),
        origin=None if version.origin is None else zlib.compress(_encode(version.origin), _DEFLATE_FAST),
    )


def _version_values(version: VersionRecord) -> dict[str, Any]:
    """What a source may say anew of a version, as columns; its dates have columns of their own."""
    return {
        "position": version.position,
        "artifacts": _artifacts(version),
        "serving": version.serving,
        "facts": _facts_of(msgspec.structs.replace(version, origin=None), _NOT_VERSION_FACTS),
    }


def _facts_of(record: Struct, left_out: set[str]) -> dict[str, Any]:
    """A record as JSON gives it back, so that it can be compared with what is stored."""
    facts: dict[str, Any] = msgspec.json.decode(_encode(record))
    return {key: value for key, value in facts.items() if key not in left_out}


def _artifacts(version: VersionRecord) -> list[dict[str, Any]]:
    return [
        {"name": file.name, "sha256": file.sha256, "size_bytes": file.size_bytes, "uri": file.uri}
        for file in sorted(version.artifacts, key=lambda file: file.name)
    ]


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


def _iso(day: date | None) -> str:
    return day.isoformat() if day else ""
