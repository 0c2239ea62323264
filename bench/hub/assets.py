"""Made-up models as published assets: what `ImportAssets` takes."""

from __future__ import annotations

from typing import Any

import msgspec

from services.catalog.domain.records import Lifecycle, ModelRecord

_encode = msgspec.json.Encoder().encode
_OPTIONS = {"MANAGED": "MaaP", "SERVERLESS": "ServerlessMaaS"}


def asset_of(record: ModelRecord) -> bytes:
    """A model as one asset, JSON; its publisher keeps its id."""
    (version,) = record.versions
    facts: dict[str, Any] = {
        "publisher": record.publisher,
        "displayName": record.display_name,
        "summary": record.summary,
        "license": record.license.id,
        "preview": version.lifecycle.preview,
        "tasks": {"inferenceTasks": record.inference_tasks, "fineTuningTasks": record.fine_tune_tasks},
        "languages": record.languages,
        "inputModalities": record.input_modalities,
        "outputModalities": record.output_modalities,
        "keywords": record.tags,
        "industry": record.industries,
        "textContextWindow": record.context_tokens,
        "deploymentOptions": [_OPTIONS[option] for option in record.deployment_options],
        "deprecation": _deprecation(version.lifecycle),
        "huggingFaceModelId": record.hub_id,
    }
    return _encode(
        {
            "name": record.model,
            "version": version.position,
            "system_metadata": facts,
            "tags": {"capabilities": ",".join(record.capabilities)},
            "_path": f"{record.publisher}/{record.model}",
            "_description_md": record.card,
        }
    )


def _deprecation(lifecycle: Lifecycle) -> dict[str, str]:
    days = {
        "inferenceLegacyDate": lifecycle.legacy,
        "inferenceDeprecationDate": lifecycle.deprecation,
        "inferenceRetirementDate": lifecycle.retirement,
    }
    return {name: f"{day.isoformat()}T00:00:00Z" for name, day in days.items() if day is not None}
