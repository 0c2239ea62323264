"""Published assets as models of the catalog."""

from __future__ import annotations

import hashlib
import re

from services.catalog.domain.records import (
    Hardware,
    License,
    Lifecycle,
    ModelRecord,
    Source,
    Support,
    VersionRecord,
)
from services.catalog.sources.azureml.format import Asset, ParsedAsset, SystemMetadata, Tags, VariantInfo, day_of

COLLECTION = "azureml-assets"
# Publisher of what names none: the registry that the asset is published in.
REGISTRY = "azureml"
_GIB = 1 << 30
_TASKS = {
    "chat-completion": "CHAT_COMPLETION",
    "text-generation": "TEXT_GENERATION",
    "embeddings": "EMBEDDINGS",
}
_OPTIONS = {"MaaP": "MANAGED", "ServerlessMaaS": "SERVERLESS", "UnifiedEndpointMaaS": "SERVERLESS"}
# As SPDX writes them, so that one licence is one value to filter by.
_LICENSES = {"apache-2.0": "Apache-2.0", "mit": "MIT", "gnu agpl v3.0": "AGPL-3.0", "cc-by-nc-4.0": "CC-BY-NC-4.0"}
_LICENSE_UNKNOWN = "Not stated"


def publisher_name(asset: Asset) -> str:
    """What its publisher is called: named, else the organisation at the hub, else the registry."""
    organisation, _, model = asset.system_metadata.hugging_face_model_id.partition("/")
    return asset.system_metadata.publisher.strip() or (organisation if model else "") or REGISTRY


def slug(name: str) -> str:
    """An id for a name: lower case, with dashes; names that differ in case and punctuation alone share it.

    A name without a Latin letter or digit gets one from its digest.
    """
    words = re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")[:64].rstrip("-")
    return words or f"publisher-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def record_of(publisher: str, parsed: list[ParsedAsset]) -> ModelRecord:
    """The model that versions of one asset make; its own facts come from the newest.

    Args:
        publisher: Id of the publisher.
        parsed: Versions of one name, oldest first, at least one.
    """
    asset = parsed[-1].asset
    facts, tags = asset.system_metadata, asset.tags or Tags()
    variant = (asset.variantInfo or VariantInfo()).variant_metadata
    options = _options(facts)
    return ModelRecord(
        publisher=publisher,
        model=asset.name,
        collection=COLLECTION,
        display_name=facts.display_name or asset.name,
        license=License(
            id=_LICENSES.get(facts.license.lower(), facts.license) or _LICENSE_UNKNOWN, text=facts.license_description
        ),
        tasks=tuple(_TASKS[task] for task in facts.tasks.inference_tasks if task in _TASKS),
        deployment_options=options,
        usability="NEEDS_HARDWARE",
        usability_detail=_why_not_here(facts, options),
        # Without a day of its own: that on which it was read is the day of the model's last change.
        sources=(Source(location=" ".join(part for part in ("azureml-assets", asset.folder) if part), date=""),),
        versions=tuple(_version(publisher, one) for one in parsed),
        summary=facts.summary or _summary(facts),
        card=asset.card,
        notes=asset.notes,
        evaluation=asset.evaluation,
        inference_tasks=facts.tasks.inference_tasks,
        fine_tune_tasks=facts.tasks.fine_tuning_tasks,
        languages=facts.languages,
        input_modalities=facts.input_modalities,
        output_modalities=facts.output_modalities,
        capabilities=_capabilities(facts, tags),
        industries=(facts.industry,) if isinstance(facts.industry, str) else facts.industry,
        tags=tuple(
            dict.fromkeys(
                word for word in (*facts.keywords, facts.alias, variant.device, variant.execution_provider) if word
            )
        ),
        context_tokens=facts.text_context_window or tags.context_length,
        output_tokens_max=facts.max_output_tokens,
        size_bytes=variant.file_size_bytes,
        training_data_date=facts.training_data_date,
        hub_id=facts.hugging_face_model_id if "/" in facts.hugging_face_model_id else "",
        support=Support(
            supported_by=f"{facts.publisher or 'its publisher'}; not this platform",
            contact="https://github.com/Azure/azureml-assets",
            sla="none",
        ),
        archived=asset.isArchived,
    )


def _version(publisher: str, parsed: ParsedAsset) -> VersionRecord:
    facts = parsed.asset.system_metadata
    dates = facts.deprecation
    return VersionRecord(
        version=str(parsed.asset.version),
        position=parsed.asset.version,
        lifecycle=Lifecycle(
            preview=facts.preview,
            legacy=day_of(dates.inference_legacy_date),
            deprecation=day_of(dates.inference_deprecation_date),
            retirement=day_of(dates.inference_retirement_date),
            fine_tune_deprecation=day_of(dates.finetune_deprecation_date),
            fine_tune_retirement=day_of(dates.finetune_retirement_date),
            replacement=f"publishers/{publisher}/models/{dates.replacement}" if dates.replacement else "",
        ),
        inference_hardware=_hardware(
            facts.sku.inference_min_sku_spec,
            facts.supported_computes.inference_computes,
            facts.sku.inference_recommended_skus,
        ),
        fine_tune_hardware=_hardware(
            facts.sku.finetune_min_sku_spec,
            facts.supported_computes.finetune_computes,
            facts.sku.finetune_recommended_skus,
        ),
        origin=parsed.document,
    )


def _hardware(spec: str, allowed: tuple[str, ...], recommended: tuple[str, ...]) -> Hardware | None:
    if not (spec or allowed or recommended):
        return None
    vcpus, gpus, memory, disk = (int(part) for part in spec.split("|")) if spec else (0, 0, 0, 0)
    return Hardware(
        vcpus=vcpus,
        gpus=gpus,
        memory_bytes=memory * _GIB,
        disk_bytes=disk * _GIB,
        allowed=allowed,
        recommended=recommended,
    )


def _options(facts: SystemMetadata) -> tuple[str, ...]:
    """Named ones, else what the platform's capabilities say; an asset that says nothing is for managed compute."""
    if facts.deployment_options:
        return tuple(dict.fromkeys(_OPTIONS[option] for option in facts.deployment_options))
    managed = facts.platform_capabilities.enable_maap is not False
    serverless = facts.platform_capabilities.maas_inference
    return ("MANAGED",) * managed + ("SERVERLESS",) * serverless


def _why_not_here(facts: SystemMetadata, options: tuple[str, ...]) -> str:
    if not options:
        return "it is built for devices of one's own and offered for no kind of deployment"
    if not facts.sku.inference_min_sku_spec:
        return "no engine and no hardware for it is set up on this platform"
    vcpus, gpus, memory, disk = facts.sku.inference_min_sku_spec.split("|")
    accelerators = f"{gpus} accelerators, " if int(gpus) else ""
    return (
        f"its publisher asks for {vcpus} cores, {accelerators}{memory} GiB of memory and {disk} GiB of disk, and an "
        "engine for it that is not set up on this platform"
    )


def _summary(facts: SystemMetadata) -> str:
    tasks = " and ".join(task.replace("-", " ") for task in facts.tasks.inference_tasks)
    return f"A model for {tasks}." if tasks else ""


def _capabilities(facts: SystemMetadata, tags: Tags) -> tuple[str, ...]:
    said = [word.strip() for word in tags.capabilities.split(",")]
    said += ["reasoning"] * (tags.supports_reasoning == "true") + ["tool-calling"] * facts.supports_tool_calling
    return tuple(dict.fromkeys(word for word in said if word))
