"""Ids, labels and versions of a project's own models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from chassis.errors import InvalidArgument
from chassis.names import check_id
from services.catalog.domain.own.errors import LabelInvalid

COLLECTION = "own"
LATEST = "latest"
LABELS_MAX = 50
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,31}")
_SUMMARY_MAX, _DISPLAY_NAME_MAX, _LICENSE_MAX = 500, 100, 64


@dataclass(frozen=True, kw_only=True)
class OwnLimits:
    """How much of its own a project may register."""

    models_max: int = 200
    versions_max: int = 1000
    files_max: int = 500


def check_model_id(value: str) -> str:
    """Raises InvalidArgument: malformed."""
    return check_id(value, "model_id", length_max=64)


def check_version_id(value: str, labels: Iterable[str]) -> str:
    """A version id that no label hides.

    Raises:
        InvalidArgument: malformed, or a label's name.
    """
    if not _VERSION.fullmatch(value):
        raise InvalidArgument(
            f"version_id {value[:64]!r} is malformed; 1 to 32 letters, digits, dots and dashes are allowed, a letter or "
            "digit first",
            field="version_id",
        )
    if value == LATEST or value in labels:
        raise InvalidArgument(f"version_id {value!r} is a label of the model; choose another one", field="version_id")
    return value


def next_version_id(taken: Iterable[str]) -> str:
    """The whole number after the highest there is."""
    numbers = [int(one) for one in taken if one.isascii() and one.isdigit() and len(one) < 10]
    return str(max(numbers, default=0) + 1)


def check_words(*, display_name: str, summary: str, license_id: str) -> None:
    """Raises InvalidArgument: longer than lists can show, or with control characters."""
    for field, value, most in (
        ("display_name", display_name, _DISPLAY_NAME_MAX),
        ("summary", summary, _SUMMARY_MAX),
        ("license_id", license_id, _LICENSE_MAX),
    ):
        if len(value) > most or not value.isprintable():
            raise InvalidArgument(
                f"{field} has {len(value)} characters; {most} printable ones are allowed, on one line", field=field
            )


def with_labels(
    labels: Mapping[str, str], changes: Mapping[str, str], version_ids: Iterable[str], model: str
) -> dict[str, str]:
    """The labels when some move; an empty version takes one away.

    Raises:
        LabelInvalid: a label that cannot be one, names no version, or is one too many.
    """
    known = set(version_ids)
    changed = dict(labels)
    for label, version in changes.items():
        check_id(label, "labels")
        if label == LATEST:
            raise LabelInvalid("the label 'latest' moves by itself, to the newest version", field="labels")
        if label in known:
            raise LabelInvalid(f"{label!r} is a version of {model}, so no label; choose another one", field="labels")
        if version and version not in known:
            raise LabelInvalid(
                f"label {label!r} would name version {version[:64]!r}, which {model} does not have", field="labels"
            )
        changed[label] = version
    changed = {label: version for label, version in sorted(changed.items()) if version}
    if len(changed) > LABELS_MAX:
        raise LabelInvalid(f"{model} would have {len(changed)} labels; {LABELS_MAX} are allowed", field="labels")
    return changed
