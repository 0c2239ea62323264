"""Published assets on this machine: a folder of `*/spec.yaml`, or a file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cli.session import UsageMistake

# Larger files are refused unread; the platform's own limits are tighter.
FILE_BYTES_MAX = 2 * 1024 * 1024
_CARD, _NOTES, _EVALUATION = "_description_md", "_notes_md", "_evaluation_md"


@dataclass(frozen=True, slots=True)
class FoundAsset:
    """One asset, and what to call it: its file, or its folder as the line says."""

    path: str
    document: bytes


@dataclass(frozen=True, slots=True)
class UnreadableAsset:
    """A file that cannot be sent."""

    path: str
    field: str
    reason: str


class _SpecLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe, and leaves moments as they are written: JSON has no other form for them."""


_SpecLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _SpecLoader.yaml_implicit_resolvers.items()
}


def find_assets(path: Path) -> Iterator[FoundAsset | UnreadableAsset]:
    """Every asset below a folder, ordered by path, or in a file of JSON lines.

    Raises:
        UsageMistake: neither is there.
    """
    if path.is_dir():
        specs = sorted(path.rglob("spec.yaml"))
        if not specs:
            raise UsageMistake(f"{path} has no */spec.yaml; name the folder of assets, or a file of JSON lines")
        return (_from_folder(path, spec) for spec in specs)
    if path.is_file():
        return _from_lines(path)
    raise UsageMistake(f"{path} is not there; name a folder of */spec.yaml, or a file of JSON lines")


def _from_lines(path: Path) -> Iterator[FoundAsset | UnreadableAsset]:
    with path.open("rb") as lines:
        number = 0
        while line := lines.readline(FILE_BYTES_MAX + 1):
            number += 1
            place = f"{path.name}:{number}"
            if len(line) > FILE_BYTES_MAX:
                size = len(line) + _skip_line(lines)
                yield UnreadableAsset(place, "", f"the line has {size:,} bytes; {FILE_BYTES_MAX:,} are allowed")
            elif line.strip():
                yield FoundAsset(_folder_named(line) or place, line.strip())


def _skip_line(lines: Any) -> int:
    """Read on to the end of a line without keeping it; its bytes."""
    skipped = 0
    while part := lines.readline(FILE_BYTES_MAX):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def _folder_named(line: bytes) -> str:
    try:
        folder = json.loads(line)["_path"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return folder if isinstance(folder, str) else ""


def _from_folder(root: Path, spec: Path) -> FoundAsset | UnreadableAsset:
    place = spec.relative_to(root).as_posix()
    try:
        text = _read(spec)
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_SpecLoader)):
            return UnreadableAsset(place, "", "an alias (`*name`) stands in it; write the value out")
        document = yaml.load(text, Loader=_SpecLoader)  # noqa: S506 - the loader is a safe one
        if not isinstance(document, dict):
            return UnreadableAsset(place, "", "is not a map of keys and values")
        document["_path"] = spec.parent.relative_to(root).as_posix()
        for key, name in _companions(document).items():
            companion = spec.parent / name
            if companion.is_file():
                document[key] = _read(companion)
        return FoundAsset(place, json.dumps(document, ensure_ascii=False).encode())
    except _TooLarge as large:
        return UnreadableAsset(large.path.relative_to(root).as_posix(), _field_of(large.path), str(large))
    except yaml.YAMLError as malformed:
        return UnreadableAsset(place, "", f"is not YAML: {malformed}")
    except (OSError, ValueError, TypeError, RecursionError) as unreadable:
        return UnreadableAsset(place, "", f"cannot be read: {unreadable}")


def _companions(document: dict[str, Any]) -> dict[str, str]:
    """Files beside a spec by the key that their text gets."""
    metadata = document.get("system_metadata")
    named = metadata if isinstance(metadata, dict) else {}
    files = {_CARD: "description.md", _NOTES: named.get("notes"), _EVALUATION: named.get("evaluation")}
    return {
        key: name for key, name in files.items() if isinstance(name, str) and name.endswith(".md") and "/" not in name
    }


def _field_of(path: Path) -> str:
    return _CARD if path.name == "description.md" else ""


class _TooLarge(Exception):
    def __init__(self, path: Path, size: int) -> None:
        super().__init__(f"has {size:,} bytes; {FILE_BYTES_MAX:,} are allowed")
        self.path = path


def _read(path: Path) -> str:
    size = path.stat().st_size
    if size > FILE_BYTES_MAX:
        raise _TooLarge(path, size)
    return path.read_text(encoding="utf-8")
