"""Rows to protos."""

from __future__ import annotations

from datetime import datetime

from modelyard.catalog.v1 import catalog_pb2

from chassis.timestamps import timestamp
from services.catalog.storage.tables import (
    CollectionRow,
    InstanceTypeRow,
    ModelRow,
    PublisherRow,
    VersionRow,
)
from services.catalog.usecases.sync_content import retire_time, stage_of


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


def model_to_proto(row: ModelRow, *, whole: bool) -> catalog_pb2.Model:
    """A model; `whole` with its card and the text of its licence."""
    return catalog_pb2.Model(
        name=row.name,
        uid=row.uid,
        display_name=row.display_name,
        collection=f"collections/{row.collection}",
        summary=row.summary,
        card=row.card if whole else "",
        license=catalog_pb2.License(id=row.license_id, text=row.license_text if whole else ""),
        tasks=_tasks(row),
        deployment_options=_options(row),
        usability=catalog_pb2.Usability.Value(f"USABILITY_{row.usability}"),
        languages=row.languages,
        parameter_count=row.parameter_count,
        context_tokens=row.context_tokens,
        latest_version=row.latest_version,
        tags=row.tags,
        sources=[catalog_pb2.Source(**source) for source in row.sources],
        etag=row.etag,
        create_time=timestamp(row.create_time),
    )


def version_to_proto(
    row: VersionRow, model: ModelRow, now: datetime, *, with_location: bool
) -> catalog_pb2.ModelVersion:
    """A version with its stage now; `with_location` also says where its files lie, for services only."""
    retires = retire_time(row)
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
        retire_time=None if retires is None else timestamp(retires),
        etag=f"{row.event_sequence}",
        create_time=timestamp(row.create_time),
        tasks=_tasks(model),
        deployment_options=_options(model),
        usability=catalog_pb2.Usability.Value(f"USABILITY_{model.usability}"),
        usability_detail=model.usability_detail,
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
    return [catalog_pb2.Task.Value(f"TASK_{task}") for task in row.tasks]


def _options(row: ModelRow) -> list[catalog_pb2.DeploymentOption.ValueType]:
    return [catalog_pb2.DeploymentOption.Value(f"DEPLOYMENT_OPTION_{option}") for option in row.deployment_options]
