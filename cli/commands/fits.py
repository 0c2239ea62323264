"""Whether a model may be deployed, and on what: `models check` and `models fit`."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Annotated

import typer
from modelyard.catalog.v1 import catalog_pb2, governance_pb2
from modelyard.type.v1 import checks_pb2
from modelyard_client import Modelyard

from cli.commands.discover import find_version, models
from cli.commands.prices import type_name
from cli.output import GIB, Json, json_document, out, plain_decimal, table
from cli.session import Project, UsageMistake, collect, project_name, run

Name = Annotated[str, typer.Argument(metavar="MODEL", help="Name, PUBLISHER/NAME, or a whole resource name.")]


@models.command("fit")
def fit(
    name: Name,
    fitting: Annotated[bool, typer.Option("--fitting", help="Only types that fit.")] = False,
    as_json: Json = False,
) -> None:
    """Show on which instance types a model fits, what each costs, and why it does not fit on the others."""

    async def work(modelyard: Modelyard) -> None:
        request = governance_pb2.ListInstanceTypeFitsRequest(parent=await find_version(modelyard, name))
        found = await collect(modelyard.governance.ListInstanceTypeFits, request, "fits")
        shown = [one for one in found if one.fits or not fitting]
        if as_json:
            json_document(shown)
            return
        table(
            "",
            (
                "instance type",
                "fits",
                "can be quoted",
                "cores",
                "memory",
                "accelerators",
                "per hour",
                "core-hour",
                "why not",
            ),
            (_row(one) for one in sorted(shown, key=_order)),
            right=("cores", "memory", "per hour", "core-hour"),
            whole=("instance type",),
        )

    run(work)


def _order(fit: governance_pb2.InstanceTypeFit) -> tuple[bool, bool, Fraction, str]:
    """What can be had first, the cheapest of it first."""
    return not fit.quotable, not fit.fits, Fraction(fit.hourly_price or 0), fit.name


def _row(fit: governance_pb2.InstanceTypeFit) -> tuple[object, ...]:
    shape = fit.instance_type
    return (
        fit.name.removeprefix("instanceTypes/") + (" (recommended)" if fit.recommended else ""),
        "yes" if fit.fits else "no",
        "yes" if fit.quotable else "no",
        shape.vcpus or "unknown",
        f"{shape.memory_bytes / GIB:g} GiB" if shape.memory_bytes else "unknown",
        f"{shape.gpu_count} x {shape.gpu_model}" if shape.gpu_count else "",
        f"{fit.hourly_price} {fit.currency}" if fit.hourly_price else "no price",
        plain_decimal(Fraction(fit.core_hour_price)) if fit.core_hour_price else "",
        "\n".join(refusal.message for refusal in fit.refusals),
    )


@models.command("check")
def check(
    name: Name,
    project: Project = "",
    serverless: Annotated[bool, typer.Option("--serverless", help="Whether it may be deployed serverless.")] = False,
    instance_type: Annotated[str, typer.Option(help="Whether it may be deployed on this type.")] = "",
    as_json: Json = False,
) -> None:
    """Show whether a project may quote and deploy a model: stage, policy, licence, way and hardware, all at once.

    Exit status 1 where it may not.
    """
    if serverless and instance_type:
        raise UsageMistake("say --serverless or --instance-type, one of the two, or neither")

    async def work(modelyard: Modelyard) -> None:
        answer = await modelyard.governance.CheckModel(
            governance_pb2.CheckModelRequest(
                parent=project_name(project),
                model_version=await find_version(modelyard, name),
                deployment_option=catalog_pb2.DEPLOYMENT_OPTION_SERVERLESS
                if serverless
                else catalog_pb2.DEPLOYMENT_OPTION_UNSPECIFIED,
                instance_type=type_name(instance_type),
            )
        )
        if as_json:
            json_document(answer)
        else:
            print_checks(answer.checks)
            if answer.fitting_instance_types:
                fitting = ", ".join(one.removeprefix("instanceTypes/") for one in answer.fitting_instance_types)
                out.print(f"fits here on {fitting}", markup=False)
        if not answer.allowed:
            raise typer.Exit(1)

    run(work)


def print_checks(checks: Iterable[checks_pb2.Check]) -> None:
    """A line a question."""
    table(
        "",
        ("asked", "answer", "found"),
        ((check.subject, "yes" if check.passed else check.reason, check.message) for check in checks),
        whole=("asked", "answer"),
    )
