"""A small published asset, to be changed field by field."""

from __future__ import annotations

import json
from typing import Any

from services.catalog.sources.azureml.format import Limits
from services.catalog.usecases.import_assets import Incoming

LIMITS = Limits(asset_bytes=64 * 1024, text_characters=1000, depth=8)
MODEL = "publishers/acme/models/Talker-7b"


def an_asset(**changes: Any) -> dict[str, Any]:
    """What stands in its spec.yaml, with its card."""
    asset = {
        "$schema": "https://azuremlschemas.azureedge.net/latest/model.schema.json",
        "_description_md": "# Talker\n\nIt <script>talks</script>.",
        "_path": "assets/models/system/talker",
        "name": "Talker-7b",
        "path": "./",
        "properties": {"SHA": "abc"},
        "system_metadata": metadata(),
        "version": 3,
    }
    return {**asset, **changes}


def metadata(**changes: Any) -> dict[str, Any]:
    """What the registry says of it, with a key that nobody here knows."""
    said = {
        "publisher": "Acme",
        "license": "apache-2.0",
        "tasks": {"inferenceTasks": ["chat-completion"], "fineTuningTasks": ["translation"]},
        "SKU": {"inferenceMinSkuSpec": "24|1|220|64", "inferenceRecommendedSkus": ["Standard_NC24ads_A100_v4"]},
        "supportedComputes": {"inferenceComputes": ["Standard_NC24ads_A100_v4"]},
        "languages": ["en", "de"],
        "textContextWindow": 4096,
        "flavourOfTheMonth": {"vanilla": [1.0, None, True]},
    }
    return {**said, **changes}


def incoming(*assets: Any) -> list[Incoming]:
    """As a call brings them, each called by its place."""
    return [
        Incoming(f"{place}/spec.yaml", asset if isinstance(asset, bytes) else json.dumps(asset).encode())
        for place, asset in enumerate(assets)
    ]
