"""Rows to protos."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.catalog.v1 import catalog_pb2, providers_pb2, registry_pb2

from chassis.clock import time_from_ms
from chassis.timestamps import timestamp
from services.catalog.domain.cards import card_html, card_text
from services.catalog.domain.uploads import UploadLimits
from services.catalog.storage.queries.models import WholeModel
from services.catalog.storage.tables import (
    CollectionRow,
    InstanceTypeRow,
    ModelRow,
    PublisherRow,
    UploadRow,
    VersionRow,
)
from services.catalog.usecases.lifecycle import moment_of, stage_of

# How long texts are shown, by `TextFormat`.
_SHOWN: dict[int, Callable[[str], str]] = {
    catalog_pb2.TEXT_FORMAT_UNSPECIFIED: lambda text: text,
    catalog_pb2.TEXT_FORMAT_HTML: card_html,
    catalog_pb2.TEXT_FORMAT_TERMINAL: card_text,
}
# Facts of a model that the contract names as the record does.
_SAME_IN_PROTO = (
    "languages",
    "parameter_count",
    "context_tokens",
    "tags",
    "inference_tasks",
    "fine_tune_tasks",
    "input_modalities",
    "output_modalities",
    "capabilities",
    "industries",
    "output_tokens_max",
    "size_bytes",
    "training_data_date",
    "release_date",
    "hub_id",
    "featured",
)


def collection_to_proto(row: CollectionRow, model_count: int) -> catalog_pb2.Collection:
    return catalog_pb2.Collection(
        name=f"collections/{row.id}",
        display_name=row.display_name,
        kind=catalog_pb2.CollectionKind.Value(f"COLLECTION_KIND_{row.kind}"),
        description=row.description,
        model_count=model_count,
    )


def publisher_to_proto(row: PublisherRow) -> catalog_pb2.Publisher:
    return catalog_pb2.Publisher(name=f"publishers/{row.id}", display_name=row.display_name, website=row.website)


def model_to_proto(row: ModelRow, version: VersionRow | None, now: datetime) -> catalog_pb2.Model:
    """A model as lists show it; `version` is its newest one."""
    facts = row.facts
    return catalog_pb2.Model(
        name=row.name,
        uid=row.uid,
        display_name=row.display_name,
        collection=f"collections/{row.collection}",
        summary=facts.get("summary", ""),
        license=_license(row),
        tasks=_tasks(row),
        deployment_options=_options(row),
        usability=catalog_pb2.Usability.Value(f"USABILITY_{row.usability}"),
        usability_detail=row.usability_detail,
        latest_version=row.latest_version,
        sources=[
            catalog_pb2.Source(
                location=source["location"], date=source.get("date") or row.update_time.date().isoformat()
            )
            for source in facts["sources"]
        ],
        etag=row.digest[:16],
        create_time=timestamp(row.create_time),
        update_time=timestamp(row.update_time),
        support=catalog_pb2.Support(**facts.get("support", {})),
        stage=catalog_pb2.LifecycleStage.ValueType(stage_of(version, now) if version else 0),
        source=row.source,
        withdrawn=row.withdrawn,
        labels=facts.get("labels", {}),
        archive_time=_archive_time(facts),
        **{field: facts[field] for field in _SAME_IN_PROTO if field in facts},
    )


def whole_model_to_proto(whole: WholeModel, now: datetime, text_format: int) -> catalog_pb2.Model:
    """A model with its card, the text of its licence and its samples; `text_format` is a `TextFormat`."""
    model = model_to_proto(whole.model, whole.version, now)
    model.license.text = whole.license_text
    model.samples.extend(catalog_pb2.Sample(**sample) for sample in whole.model.facts.get("samples", ()))
    if (text := whole.text) is not None:
        shown = _SHOWN[text_format]
        model.card, model.notes, model.evaluation = map(shown, (text.card, text.notes, text.evaluation))
    return model


def version_to_proto(
    row: VersionRow, model: ModelRow, now: datetime, *, with_location: bool
) -> catalog_pb2.ModelVersion:
    """A version with its stage now; `with_location` also says where its files lie or its provider answers, for services."""
    return catalog_pb2.ModelVersion(
        name=row.name,
        uid=row.uid,
        artifacts=[
            catalog_pb2.Artifact(
                name=artifact["name"],
                sha256=artifact["sha256"],
                size_bytes=artifact["size_bytes"],
                uri=artifact["uri"] if with_location else "",
            )
            for artifact in row.artifacts
        ],
        serving=catalog_pb2.Serving(**row.serving) if row.serving else None,
        stage=catalog_pb2.LifecycleStage.ValueType(stage_of(row, now)),
        retire_time=_moment(row.retirement_date),
        etag=f"{row.event_sequence}",
        create_time=timestamp(row.create_time),
        tasks=_tasks(model),
        deployment_options=_options(model),
        usability=catalog_pb2.Usability.Value(f"USABILITY_{model.usability}"),
        usability_detail=model.usability_detail,
        legacy_time=_moment(row.legacy_date),
        deprecation_time=_moment(row.deprecation_date),
        fine_tune_deprecation_time=_moment(row.fine_tune_deprecation_date),
        fine_tune_retirement_time=_moment(row.fine_tune_retirement_date),
        replacement=row.replacement,
        inference_hardware=hardware_to_proto(row.facts.get("inference_hardware")),
        fine_tune_hardware=hardware_to_proto(row.facts.get("fine_tune_hardware")),
        verified=[catalog_pb2.VerifiedConfiguration(**one) for one in row.facts.get("verified", ())],
        license=_license(model),
        support=catalog_pb2.Support(**model.facts.get("support", {})),
        collection=f"collections/{model.collection}",
        withdrawn=model.withdrawn,
        provider=_provider(model) if with_location else None,
        created_by_job=row.facts.get("created_by_job", ""),
        registered_by=row.facts.get("registered_by", ""),
        price_resource=f"ownModels/{row.facts['price_class']}" if row.facts.get("price_class") else "",
        archive_time=_archive_time(row.facts) or _archive_time(model.facts),
    )


def upload_to_proto(row: UploadRow, project: str, limits: UploadLimits) -> registry_pb2.Upload:
    return registry_pb2.Upload(
        name=f"projects/{project}/uploads/{row.uid}",
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        received_bytes=row.received_bytes,
        state=registry_pb2.UploadState.ValueType(row.state),
        detail=row.detail,
        principal=row.principal,
        create_time=timestamp(row.create_time),
        expire_time=timestamp(row.update_time + timedelta(seconds=limits.idle_s)),
        part_bytes_max=limits.part_bytes_max,
    )


def instance_type_to_proto(row: InstanceTypeRow) -> catalog_pb2.InstanceType:
    return catalog_pb2.InstanceType(
        name=f"instanceTypes/{row.id}",
        vcpus=row.vcpus,
        memory_bytes=row.memory_bytes,
        gpu_count=row.gpu_count,
        gpu_model=row.gpu_model,
        disk_bytes=row.disk_bytes,
        provider=row.provider,
        source=catalog_pb2.Source(**row.source),
    )


def _tasks(row: ModelRow) -> list[catalog_pb2.Task.ValueType]:
    return [catalog_pb2.Task.Value(f"TASK_{task}") for task in row.facts.get("tasks", ())]


def _options(row: ModelRow) -> list[catalog_pb2.DeploymentOption.ValueType]:
    options = row.facts.get("deployment_options", ())
    return [catalog_pb2.DeploymentOption.Value(f"DEPLOYMENT_OPTION_{option}") for option in options]


def _license(row: ModelRow) -> catalog_pb2.License:
    return catalog_pb2.License(
        id=row.license_id,
        url=row.facts.get("license_url", ""),
        digest=row.license_digest,
        acceptance_required=row.facts.get("acceptance_required", False),
    )


def _provider(row: ModelRow) -> providers_pb2.ProviderTarget | None:
    return providers_pb2.ProviderTarget.FromString(row.provider_target) if row.provider_source else None


def hardware_to_proto(facts: dict[str, Any] | None) -> catalog_pb2.Hardware | None:
    return None if facts is None else catalog_pb2.Hardware(**facts)


def _archive_time(facts: dict[str, Any]) -> Timestamp | None:
    """Since when a project's own model or version is archived."""
    return timestamp(time_from_ms(facts["archived_ms"])) if "archived_ms" in facts else None


def _moment(day: str) -> Timestamp | None:
    moment = moment_of(day)
    return None if moment is None else timestamp(moment)
