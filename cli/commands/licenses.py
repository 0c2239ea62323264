"""Licences that a project accepts before it quotes or deploys."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from modelyard.catalog.v1 import catalog_pb2, governance_pb2
from modelyard_client import Modelyard

from cli.commands.discover import find_model
from cli.output import Json, facts, json_document, moment, out, short_name, table
from cli.session import Project, UsageMistake, collect, project_name, run

licenses = typer.Typer(help="Licences of models, and which a project has accepted.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="MODEL", help="Name, PUBLISHER/NAME, or the whole resource name.")]


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.add_typer(licenses, name="licenses")


@licenses.command("list")
def list_accepted(project: Project = "", as_json: Json = False) -> None:
    """List the licence texts a project has accepted: who, when, and the text's digest."""

    async def work(modelyard: Modelyard) -> None:
        found = await _accepted(modelyard, project)
        if as_json:
            json_document(found)
            return
        table(
            "",
            ("licence", "accepted for", "by", "at (UTC)", "SHA-256 of the text"),
            (
                (one.license_id, short_name(one.model), one.principal, moment(one.accept_time), one.digest)
                for one in found
            ),
        )

    run(work)


@licenses.command("show")
def show(name: Name, project: Project = "", as_json: Json = False) -> None:
    """Show the text of a model's licence, its digest, and whether the project has accepted it."""

    async def work(modelyard: Modelyard) -> None:
        model = await find_model(modelyard, name)
        accepted = {one.digest: one for one in await _accepted(modelyard, project)} if project else {}
        acceptance = accepted.get(model.license.digest)
        if as_json:
            json_document({"model": model.name, "license": model.license, "acceptance": acceptance})
            return
        _print_license(model)
        if acceptance is not None:
            out.print(f"accepted by {acceptance.principal} at {moment(acceptance.accept_time)} UTC", markup=False)
        elif project:
            out.print("not accepted by this project")

    run(work)


@licenses.command("accept")
def accept(
    name: Name,
    project: Project = "",
    digest: Annotated[str, typer.Option(help="SHA-256 of the text that was read; it is not shown again.")] = "",
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Accept the text as it is now, without being asked.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Accept the text of a model's licence for a project: it binds every member."""

    async def work(modelyard: Modelyard) -> None:
        parent = project_name(project)
        model = await find_model(modelyard, name)
        if not digest and not as_json:
            _print_license(model)
        if not (digest or yes):
            if not sys.stdin.isatty():
                raise UsageMistake("read the text with `modelyard licenses show`, then say --digest or --yes")
            typer.confirm(f"Accept it for {parent}?", abort=True)
        accepted = await modelyard.governance.AcceptLicense(
            governance_pb2.AcceptLicenseRequest(parent=parent, model=model.name, digest=digest or model.license.digest)
        )
        if as_json:
            json_document(accepted)
        else:
            out.print(f"{accepted.license_id} is accepted for {parent} by {accepted.principal}", markup=False)

    run(work)


async def _accepted(modelyard: Modelyard, project: str) -> list[governance_pb2.LicenseAcceptance]:
    request = governance_pb2.ListLicenseAcceptancesRequest(parent=project_name(project))
    return await collect(modelyard.governance.ListLicenseAcceptances, request, "license_acceptances")


def _print_license(model: catalog_pb2.Model) -> None:
    facts(
        [
            ("model", model.name),
            ("licence", model.license.id),
            ("acceptance", "needed" if model.license.acceptance_required else "not needed"),
            ("address", model.license.url),
            ("SHA-256", model.license.digest),
        ]
    )
    out.print()
    out.print(model.license.text or "The text is not shipped; see the publisher's page.", markup=False)
