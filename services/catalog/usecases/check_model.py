"""Ask everything that decides whether a project may quote and deploy a version, or an instance type."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlmodel.ext.asyncio.session import AsyncSession

from services.catalog.domain.checks import (
    Acceptance,
    Candidate,
    Finding,
    Option,
    check_candidate,
    check_offered,
    fitting,
)
from services.catalog.domain.errors import InstanceTypeNotFound
from services.catalog.domain.fit import Needs, Shape
from services.catalog.domain.own.triton_repository import ENGINE as TENSORS
from services.catalog.storage.queries import governance, pages
from services.catalog.storage.tables import InstanceTypeRow, ModelRow, VersionRow
from services.catalog.usecases.find import Named, find_version
from services.catalog.usecases.lifecycle import dates_of, stage_of
from services.catalog.usecases.policies import policed, policy_in_force


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found, and of what."""

    findings: list[Finding]
    named: Named | None
    instance_type: InstanceTypeRow | None
    # Ids of the types offered here on which the version fits; empty for serverless.
    fitting: list[str]


async def check_model(
    session: AsyncSession,
    now: datetime,
    *,
    project_uid: str,
    project: str,
    version_name: str,
    instance_type: str,
    option: Option | None,
) -> Checked:
    """Every question and its answer.

    Args:
        version_name: Resource name of a model, which means its newest version, or of a version; empty checks the type
            alone.
        instance_type: Id of the type; empty where none is named.

    Raises:
        ModelNotFound, InstanceTypeNotFound: the project sees none of that name.
    """
    row = await find_instance_type(session, instance_type) if instance_type else None
    shape = None if row is None else shape_of(row)
    if not version_name:
        return Checked([] if shape is None else list(check_offered(shape)), None, row, [])
    named = await find_version(session, version_name, project_uid, field="model_version")
    found = candidate(named, now)
    offered = [shape_of(one) for one in await pages.all_instance_types(session) if one.provider]
    findings = check_candidate(
        found,
        project=project,
        policy=await policy_in_force(session, project_uid),
        acceptance=await _acceptance(session, project_uid, named.model.license_digest),
        option=option,
        shape=shape,
        offered=offered,
    )
    return Checked(findings, named, row, [] if option is Option.SERVERLESS else fitting(found, offered))


async def find_instance_type(session: AsyncSession, type_id: str) -> InstanceTypeRow:
    """An instance type by its id.

    Raises:
        InstanceTypeNotFound: there is none.
    """
    row = await pages.instance_type(session, type_id)
    if row is None:
        raise InstanceTypeNotFound(
            f"instance type 'instanceTypes/{type_id}' does not exist; `modelyard instance-types` shows those that do",
            field="instance_type",
        )
    return row


def shape_of(row: InstanceTypeRow) -> Shape:
    """What an instance type has."""
    return Shape(row.id, row.vcpus, row.gpu_count, row.memory_bytes, row.disk_bytes, row.provider)


def candidate(named: Named, now: datetime) -> Candidate:
    """What is known of a version that somebody wants to deploy."""
    model, version = named.model, named.version
    return Candidate(
        policed=policed(model, version.name),
        latest_version=model.latest_version,
        license_digest=model.license_digest,
        acceptance_required=model.facts.get("acceptance_required", False),
        withdrawn=model.withdrawn,
        archived=is_archived(model, version),
        stage=stage_of(version, now),
        dates=dates_of(version),
        replacement=version.replacement,
        deployment_options=tuple(model.facts.get("deployment_options", ())),
        managed_only=_why_managed_only(version),
        not_runnable=_why_not_runnable(model, version),
        architecture=version.facts.get("architecture", ""),
        needs=needs_of(version),
    )


def needs_of(version: VersionRow) -> Needs:
    """What an instance must have: what the engine here needs, and what the publisher states, whichever is more."""
    stated = version.facts.get("inference_hardware") or {}
    serving = version.serving or {}
    published = Needs(
        vcpus=stated.get("vcpus", 0),
        gpus=stated.get("gpus", 0),
        memory_bytes=stated.get("memory_bytes", 0),
        disk_bytes=stated.get("disk_bytes", 0),
        allowed=tuple(stated.get("allowed", ())),
    )
    return published.with_at_least(
        Needs(vcpus=serving.get("min_vcpus", 0), memory_bytes=serving.get("min_memory_bytes", 0))
    )


def is_archived(model: ModelRow, version: VersionRow) -> bool:
    """Whether its project archived a version, or the whole model."""
    return "archived_ms" in model.facts or "archived_ms" in version.facts


def _why_managed_only(version: VersionRow) -> str:
    serving = version.serving or {}
    if serving.get("engine") == TENSORS:
        return "it takes raw tensors, which would pass the token meter of the shared pool"
    if serving.get("engine") == "llamacpp" and not serving.get("chat_template"):
        return "its file has no chat template, and the shared pool is asked for chats"
    return ""


def _why_not_runnable(model: ModelRow, version: VersionRow) -> str:
    if model.usability != "RUNS_HERE":
        return model.usability_detail or "it needs hardware or a credential that is not here"
    return "" if version.artifacts or model.provider_source else "its files are not here"


async def _acceptance(session: AsyncSession, project_uid: str, digest: str) -> Acceptance | None:
    row = await governance.acceptance(session, project_uid, digest) if digest else None
    return None if row is None else Acceptance(row.principal, row.accept_time)
