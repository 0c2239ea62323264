"""The content folder as records: its files read, its wheels looked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chassis.telemetry import get_logger
from services.catalog.domain.names import model_named
from services.catalog.domain.records import (
    ArtifactRecord,
    Hardware,
    License,
    Lifecycle,
    ModelRecord,
    Sample,
    Source,
    Support,
    VerifiedConfiguration,
    VersionRecord,
)
from services.catalog.sources import content, content_files
from services.catalog.sources.content_files import license_text
from services.catalog.sources.packages import PackageStore, Pin, read_pins
from services.catalog.sources.wheels import ArtifactMissing, locate, sha256_of

log = get_logger(__name__)
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Files:
    """A version's artifacts with where they lie; and why one is not here (empty when all are)."""

    artifacts: tuple[ArtifactRecord, ...]
    missing: str
    # Whether the way out is to install them.
    installable: bool


def records_of(folder: Path, read: content_files.Content, packages: PackageStore) -> list[ModelRecord]:
    """Every model of a content folder; weights are read once to check their digest, so call it off the event loop."""
    support = {collection.id: collection.support for collection in read.collections}
    return [record_of(folder, model, support[model.collection], packages) for model in read.models]


def pins_of(folder: Path, version: content.Version) -> list[Pin]:
    """The wheels that are installed on demand for a version.

    Raises:
        ContentInvalid: its requirements file cannot be read, or pins something loosely.
    """
    return read_pins(folder / "requirements" / version.install.requirements) if version.install else []


def record_of(
    folder: Path, model: content.Model, collection_support: content.Support, packages: PackageStore
) -> ModelRecord:
    """A model of a folder; what it does not say of its support is its collection's. It reads weights, as `records_of`."""
    files = [_files(folder, model, version, packages) for version in model.versions]
    usability, detail = _usability(model, files)
    if model.usability is None and usability == "NEEDS_HARDWARE":
        log.warning("a model cannot run here", model=f"{model.publisher}/{model.id}", why=detail)
    return ModelRecord(
        publisher=model.publisher,
        model=model.id,
        collection=model.collection,
        display_name=model.display_name,
        license=License(
            id=model.license,
            url=model.license_url,
            text=license_text(folder, model.license),
            acceptance_required=model.license_acceptance_required,
        ),
        tasks=tuple(model.tasks),
        deployment_options=tuple(model.deployment_options),
        usability=usability,
        usability_detail=detail,
        sources=tuple(Source(location=one.location, date=one.date.isoformat()) for one in model.sources),
        versions=tuple(
            _version(position, version, found)
            for position, (version, found) in enumerate(zip(model.versions, files, strict=True), start=1)
        ),
        summary=model.summary,
        card=model.card,
        notes=model.notes,
        evaluation=model.evaluation,
        inference_tasks=tuple(model.inference_tasks) or tuple(task.lower().replace("_", "-") for task in model.tasks),
        fine_tune_tasks=tuple(model.fine_tune_tasks),
        languages=tuple(model.languages),
        input_modalities=tuple(model.input_modalities),
        output_modalities=tuple(model.output_modalities),
        capabilities=tuple(model.capabilities),
        industries=tuple(model.industries),
        tags=tuple(model.tags),
        parameter_count=model.parameter_count,
        context_tokens=model.context_tokens,
        output_tokens_max=model.output_tokens_max,
        size_bytes=model.size_bytes or sum(file.size_bytes for file in files[-1].artifacts),
        training_data_date=model.training_data_date,
        release_date=model.release_date,
        hub_id=model.hub_id,
        featured=model.featured,
        support=Support(
            supported_by=model.support.supported_by or collection_support.supported_by,
            contact=model.support.contact or collection_support.contact,
            sla=model.support.sla or collection_support.sla,
        ),
        samples=tuple(Sample(title=one.title, input=one.input, output=one.output) for one in model.samples),
    )


def _version(position: int, version: content.Version, files: Files) -> VersionRecord:
    dates = version.lifecycle
    replacement = model_named(dates.replacement) if dates.replacement else ""
    return VersionRecord(
        version=version.version,
        position=position,
        artifacts=files.artifacts,
        serving=version.serving.model_dump() if version.serving else None,
        lifecycle=Lifecycle(
            preview=dates.preview,
            legacy=dates.legacy,
            deprecation=dates.deprecation,
            retirement=dates.retirement,
            fine_tune_deprecation=dates.fine_tune_deprecation,
            fine_tune_retirement=dates.fine_tune_retirement,
            replacement=replacement,
        ),
        inference_hardware=_hardware(version.inference_hardware),
        fine_tune_hardware=_hardware(version.fine_tune_hardware),
        verified=tuple(
            VerifiedConfiguration(
                engine=version.serving.engine if version.serving else "",
                parameters=version.serving.parameters if version.serving else {},
                instance_type=one.instance_type,
                date=one.date.isoformat(),
            )
            for one in version.verified
        ),
    )


def _hardware(needs: content.Hardware | None) -> Hardware | None:
    if needs is None:
        return None
    return Hardware(
        vcpus=needs.vcpus,
        gpus=needs.gpus,
        memory_bytes=round(needs.memory_gib * _GIB),
        disk_bytes=round(needs.disk_gib * _GIB),
        allowed=tuple(needs.allowed),
        recommended=tuple(needs.recommended),
    )


def _files(folder: Path, model: content.Model, version: content.Version, packages: PackageStore) -> Files:
    missing = ""
    lacking = packages.missing(pins_of(folder, version))
    if version.install and lacking:
        megabytes = max(1, round(version.install.download_bytes / 1e6))
        missing = (
            f"its files are not installed; `modelyard models install {model.publisher}/{model.id}` fetches them, about "
            f"{megabytes} MB"
        )
    found = []
    for artifact in version.artifacts:
        uri = ""
        try:
            uri = _checked(artifact, packages.folder).as_uri()
        except ArtifactMissing as why:
            missing = missing or str(why)
        found.append(
            ArtifactRecord(name=artifact.name, sha256=artifact.sha256, size_bytes=artifact.size_bytes, uri=uri)
        )
    return Files(tuple(found), missing, installable=bool(lacking))


def _checked(artifact: content.Artifact, packages: Path | None) -> Path:
    path = locate(artifact, packages)
    digest = sha256_of(path)
    if digest != artifact.sha256:
        raise ArtifactMissing(
            f"{artifact.path!r} has digest {digest}; {artifact.sha256} was expected: reinstall the wheel"
        )
    return path


def _usability(model: content.Model, versions: Sequence[Files]) -> tuple[str, str]:
    if model.usability is not None:
        return model.usability, model.usability_detail
    missing = [files for files in versions if files.missing]
    if not missing:
        return "RUNS_HERE", ""
    # What installing does not mend is said first.
    worst = min(missing, key=lambda files: files.installable)
    return "NEEDS_INSTALL" if worst.installable else "NEEDS_HARDWARE", worst.missing
