"""Whether a project may quote and deploy a version: one rule, asked in one place, with every reason at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from chassis.errors import Problem
from services.catalog.domain.errors import (
    ArchitectureNotSupported,
    InstanceTypeNotQuotable,
    InstanceTypeTooSmall,
    LicenseNotAccepted,
    ModelDeprecated,
    ModelNotRunnable,
    ModelRetired,
    ModelWithdrawn,
    PolicyRefused,
)
from services.catalog.domain.fit import Needs, Shape, misfits
from services.catalog.domain.lifecycle import Dates, Stage, midnight
from services.catalog.domain.own.errors import ModelArchived
from services.catalog.domain.policy import Policed, Policy, violations


class Option(StrEnum):
    """The ways to deploy, by the last part of their names in the contract."""

    MANAGED = "MANAGED"
    SERVERLESS = "SERVERLESS"


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one question; `problem` is the refusal, None where nothing stands in the way."""

    subject: str
    message: str
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Who accepted the licence's text as it stands now, and when."""

    principal: str
    accept_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What is known of a version that somebody wants to deploy."""

    policed: Policed
    # Resource name of the model's newest version.
    latest_version: str
    license_digest: str
    acceptance_required: bool
    withdrawn: bool
    # By the project whose own it is.
    archived: bool = False
    stage: Stage
    dates: Dates
    # Resource name of the model to move to; empty where none is named.
    replacement: str
    deployment_options: tuple[str, ...]
    # Why it is not offered serverless, where there is more to say than that it is not.
    managed_only: str = ""
    # Why it cannot run here; empty where it can.
    not_runnable: str
    # The architecture that no engine here runs, where that is why.
    architecture: str = ""
    needs: Needs

    @property
    def version(self) -> str:
        """Resource name of the version."""
        return self.policed.version


def check_candidate(
    candidate: Candidate,
    *,
    project: str,
    policy: Policy,
    acceptance: Acceptance | None,
    option: Option | None,
    shape: Shape | None,
    offered: Sequence[Shape],
) -> list[Finding]:
    """Every question and its answer, the gravest first.

    Args:
        project: The project's name, for the way out.
        option: How it would be deployed; None where that is left open.
        shape: The instance type that is wanted; None where none is named.
        offered: Instance types of this platform's compute providers.
    """
    findings = [
        _check_stage(candidate),
        *_check_policy(candidate, policy, project),
        _check_license(candidate, acceptance, project),
    ]
    if option is not None:
        findings.append(_check_option(candidate, option))
    if option is Option.MANAGED and shape is not None:
        findings += [*check_offered(shape), *_check_fit(candidate, shape)]
    elif option is Option.MANAGED:
        findings.append(_check_any_fits(candidate, offered))
    return findings


def check_offered(shape: Shape) -> Iterator[Finding]:
    """Whether an instance type can be quoted at all, whatever runs on it."""
    if not shape.is_known:
        yield _refused(
            "instance type",
            InstanceTypeNotQuotable(
                f"no source says how many cores {shape.id} has, so it has no core-hour price; `modelyard instance-types "
                "--available` shows those that can be quoted",
                field="instance_type",
            ),
        )
    elif not shape.provider:
        yield _refused(
            "instance type",
            ModelNotRunnable(
                f"no compute provider of this platform has {shape.id}; `modelyard instance-types --available` shows "
                "those that can be quoted",
                field="instance_type",
            ),
        )
    else:
        yield Finding("instance type", f"{shape.id} is offered by {shape.provider}")


def fitting(candidate: Candidate, offered: Sequence[Shape]) -> list[str]:
    """Ids of the types among `offered` on which a version fits."""
    return [
        shape.id for shape in offered if shape.is_known and not any(misfits(candidate.version, candidate.needs, shape))
    ]


def _check_stage(candidate: Candidate) -> Finding:
    """Retired, deprecated and withdrawn versions take no new deployments."""
    version, dates = candidate.version, candidate.dates
    way_out = (
        f"deploy {candidate.replacement} instead"
        if candidate.replacement
        else "`modelyard models` shows those that take deployments"
    )
    if candidate.stage is Stage.RETIRED:
        return _refused("stage", ModelRetired(f"{version} is retired; {way_out}"))
    if candidate.stage is Stage.DEPRECATED:
        return _refused("stage", ModelDeprecated(f"{version} is deprecated and takes no new deployments; {way_out}"))
    if candidate.archived:
        return _refused(
            "stage", ModelArchived(f"{version} is archived; `modelyard models restore` opens it to deployments again")
        )
    if candidate.withdrawn:
        return _refused("stage", ModelWithdrawn(f"{version} left its source and takes no new deployments; {way_out}"))
    ahead = [
        f"{words} from {midnight(day):%Y-%m-%d} on"
        for words, day in (("no new deployments", dates.deprecation), ("no answers", dates.retirement))
        if day is not None
    ]
    stage = {Stage.PREVIEW: "in preview", Stage.GA: "generally available", Stage.LEGACY: "legacy"}[candidate.stage]
    return Finding("stage", ", ".join([f"it is {stage}", *ahead]))


def _check_policy(candidate: Candidate, policy: Policy, project: str) -> Iterator[Finding]:
    way_out = f"an owner changes it with `modelyard policy set --project {project}`"
    found = list(violations(policy, candidate.policed))
    if not found:
        yield Finding("policy", "the project's policy allows it")
    for violation in found:
        holds = "holds" if violation.rule == "blocked" else "does not hold"
        message = f"rule {violation.rule} of the policy of project {project!r} {holds} {violation.value!r}; {way_out}"
        yield _refused("policy", PolicyRefused(message, metadata={"rule": violation.rule, "value": violation.value}))


def _check_license(candidate: Candidate, acceptance: Acceptance | None, project: str) -> Finding:
    license_id = candidate.policed.license_id
    if not candidate.acceptance_required:
        return Finding("licence", f"{license_id} needs no acceptance")
    if acceptance is not None:
        day = f"{acceptance.accept_time:%Y-%m-%d}"
        return Finding("licence", f"{license_id} was accepted by {acceptance.principal} on {day}")
    return _refused(
        "licence",
        LicenseNotAccepted(
            f"licence {license_id} of {candidate.policed.model} asks for the acceptance of its text (SHA-256 "
            f"{candidate.license_digest[:12]}…), and project {project!r} has not given it; `modelyard licenses accept "
            f"{short_model(candidate.policed.model)} --project {project}` shows the text and accepts it",
            metadata={"digest": candidate.license_digest},
        ),
    )


def _check_option(candidate: Candidate, option: Option) -> Finding:
    subject, version = "way to deploy", candidate.version
    if option not in candidate.deployment_options:
        ways = " or ".join(way.lower() for way in candidate.deployment_options)
        why = f": {candidate.managed_only}" if candidate.managed_only and option is Option.SERVERLESS else ""
        message = f"{version} is not offered {option.value.lower()}{why}; deploy it {ways}"
        return _refused(subject, ModelNotRunnable(message))
    if option is Option.SERVERLESS and version != candidate.latest_version:
        message = (
            f"a serverless deployment takes the newest version only, {candidate.latest_version}; deploy {version} on "
            "instances of your own"
        )
        return _refused(subject, ModelNotRunnable(message, field="model_version"))
    if candidate.not_runnable:
        message = f"{version} cannot run here: {candidate.not_runnable}"
        if candidate.architecture:
            return _refused(
                subject, ArchitectureNotSupported(message, metadata={"architecture": candidate.architecture})
            )
        return _refused(subject, ModelNotRunnable(message))
    return Finding(subject, f"it can be deployed {option.value.lower()} here")


def _check_fit(candidate: Candidate, shape: Shape) -> Iterator[Finding]:
    found = list(misfits(candidate.version, candidate.needs, shape))
    if not found and shape.is_known:
        yield Finding("fit", f"it fits on {shape.id}")
    for why in found:
        yield _refused("fit", why)


def _check_any_fits(candidate: Candidate, offered: Sequence[Shape]) -> Finding:
    if names := fitting(candidate, offered):
        return Finding("fit", f"it fits on {', '.join(names)}")
    needs = candidate.needs
    return _refused(
        "fit",
        InstanceTypeTooSmall(
            f"{candidate.version} fits on none of the instance types that this platform offers: it needs {needs.vcpus} "
            f"cores, {needs.gpus} accelerators and {needs.memory_bytes / (1 << 30):g} GiB; `modelyard models fit` shows "
            "what would fit",
            field="instance_type",
        ),
    )


def _refused(subject: str, problem: Problem) -> Finding:
    return Finding(subject, problem.message, problem)


def short_model(name: str) -> str:
    """What people type for a model: `PUBLISHER/MODEL`; the name itself where it has another form."""
    parts = name.split("/")
    return f"{parts[1]}/{parts[3]}" if parts[0] == "publishers" and len(parts) == 4 else name
