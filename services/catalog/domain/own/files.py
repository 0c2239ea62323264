"""A version's files as they were uploaded, and what is made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.catalog.domain.own.errors import ModelFilesInvalid


@dataclass(frozen=True, slots=True)
class OwnFile:
    """One file: its name in the version, and what looking at it told.

    `format` and `facts` are those of `Scanned`.
    """

    name: str
    sha256: str
    size_bytes: int
    format: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """How a version is served.

    Attributes:
        serving: Fields of `modelyard.catalog.v1.Serving`.
        tasks: Names of `modelyard.catalog.v1.Task`; empty where only raw tensors reach it.
        deployment_options: "MANAGED", and "SERVERLESS" where its use can be metered in tokens.
        price_class: What price lists name for its tokens: `ownModels/{price_class}`; empty where it is managed only.
    """

    serving: dict[str, Any]
    tasks: tuple[str, ...]
    deployment_options: tuple[str, ...]
    price_class: str
    parameter_count: int
    context_tokens: int


def json_object(texts: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """A small JSON file of the version; empty where it has none.

    Raises:
        ModelFilesInvalid: it holds something else than an object.
    """
    value = json_value(texts, name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ModelFilesInvalid(f"{name} holds no JSON object", field="files")
    return value


def json_value(texts: Mapping[str, bytes], name: str) -> Any:
    """A small JSON file of the version; None where it has none.

    Raises:
        ModelFilesInvalid: it is no JSON.
    """
    if name not in texts:
        return None
    try:
        return json.loads(texts[name])
    except (ValueError, RecursionError):
        raise ModelFilesInvalid(f"{name} is no JSON", field="files") from None


def rounded_memory(size_bytes: int) -> int:
    """Memory of an instance to whole 64 MiB."""
    return -(-size_bytes // (64 << 20)) * (64 << 20)
