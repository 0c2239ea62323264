"""Catalog content for the platform under test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

SHIPPED = Path(__file__).parents[2] / "services" / "catalog" / "content"
# Models that end in some weeks; their resource names.
DATED = [f"publishers/huggingfacetb/models/dated-{number}" for number in (1, 2)]


def content_with(folder: Path, change: Callable[[Path], None]) -> Path:
    """A copy of the shipped content, changed."""
    shutil.copytree(SHIPPED, folder)
    change(folder)
    return folder


def content_with_dates(folder: Path) -> Path:
    """The shipped content, and two models that are only listed and have days ahead of them."""
    return content_with(folder, _add_dated)


def _add_dated(folder: Path) -> None:
    today = datetime.now(UTC).date()
    models = [
        {
            "publisher": "huggingfacetb",
            "id": name.rpartition("/")[2],
            "display_name": "Dated",
            "collection": "curated",
            "summary": "A model that ends soon.",
            "tasks": ["CHAT_COMPLETION"],
            "deployment_options": ["MANAGED"],
            "license": "Apache-2.0",
            "usability": "NEEDS_HARDWARE",
            "usability_detail": "it is made up",
            "sources": [{"location": "a test", "date": today}],
            "card": "# Dated",
            "versions": [{"version": "1", "lifecycle": {"legacy": today + timedelta(days=40)}}],
        }
        for name in DATED
    ]
    (folder / "models" / "dated.yaml").write_text(yaml.safe_dump({"models": models}))
