"""Endpoints and deployments."""

from __future__ import annotations

import re
import sys
import time
from typing import Annotated

import typer
from modelyard.billing.v1 import billing_pb2
from modelyard.deploy.v1 import deploy_pb2
from modelyard_client import Modelyard, ModelyardError, watch_deployment

from cli.commands.discover import find_version
from cli.commands.fits import print_checks
from cli.commands.prices import print_quote, take_quote, type_name
from cli.output import Json, enum_word, err, json_document, json_line, moment, out, short_name, table
from cli.session import Project, UsageMistake, collect, project_name, run

NAME_LENGTH_MAX = 32
Address = Annotated[str, typer.Argument(metavar="ENDPOINT/DEPLOYMENT", help="Which deployment.")]


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.command("deploy")(deploy)
    app.command("endpoints")(endpoints)
    app.command("deployments")(deployments)
    app.command("watch")(watch)
    app.command("scale")(scale)
    app.command("traffic")(traffic)
    app.command("delete")(delete)
    app.command("logs")(logs)


def deploy(
    model: Annotated[str, typer.Argument(help="Name, PUBLISHER/NAME, or a whole resource name.")],
    endpoint: Annotated[str, typer.Option(help="Endpoint; made when it is not there.")],
    project: Project = "",
    serverless: Annotated[bool, typer.Option("--serverless", help="On the shared pool, billed per token.")] = False,
    instance_type: Annotated[str, typer.Option(help="On instances of this type, billed per core-hour.")] = "",
    count: Annotated[int, typer.Option(help="Instances of a managed deployment.")] = 1,
    deployment: Annotated[str, typer.Option(help="Name of the deployment; the model's name where it is not set.")] = "",
    quote: Annotated[str, typer.Option(help="Quote taken before; a new one is taken where it is not set.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether the price is right.")] = False,
    wait: Annotated[bool, typer.Option(help="Watch until it answers.")] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show whether it would be accepted; exit status 1 where not.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Deploy a model at a price that is shown first."""
    if serverless == bool(instance_type):
        raise UsageMistake(
            "say how: --serverless, or --instance-type T; `modelyard instance-types --available` shows the types"
        )

    async def work(modelyard: Modelyard) -> None:
        parent = project_name(project)
        version = await find_version(modelyard, model)
        name = quote if "/" in quote or not quote else f"{parent}/quotes/{quote}"
        if dry_run:
            wanted = deploy_pb2.CanDeployRequest(
                parent=f"{parent}/endpoints/{endpoint}",
                deployment_id=deployment or default_name(version),
                model_version=version,
                instance_type=type_name(instance_type),
                instance_count=0 if serverless else count,
                quote=name,
            )
            await _try(modelyard, wanted, as_json=as_json)
            return
        if quote:
            priced = await modelyard.billing.GetQuote(billing_pb2.GetQuoteRequest(name=name))
        else:
            priced = await take_quote(modelyard, project, model=version, instance_type=instance_type)
        if not as_json:
            print_quote(priced)
            if not (yes or quote) and sys.stdin.isatty():
                typer.confirm("Deploy at this price?", default=True, abort=True)
        created = await create_deployment(
            modelyard,
            parent,
            endpoint,
            deployment or default_name(version),
            version,
            priced,
            count=0 if serverless else count,
        )
        if wait:
            await wait_active(modelyard, created, as_json=as_json)
        elif as_json:
            json_line(created)
        else:
            out.print(f"{created.name} is accepted; `modelyard watch {_address(created.name)}` shows how it comes up")

    run(work)


async def _try(modelyard: Modelyard, wanted: deploy_pb2.CanDeployRequest, *, as_json: bool) -> None:
    """Show every reason why a deployment would be refused.

    Raises:
        typer.Exit: it would be.
    """
    answer = await modelyard.deploy.CanDeploy(wanted)
    if as_json:
        json_document(answer)
    else:
        print_checks(answer.checks)
    if not answer.allowed:
        raise typer.Exit(1)


async def create_deployment(
    modelyard: Modelyard,
    parent: str,
    endpoint: str,
    deployment: str,
    version: str,
    priced: billing_pb2.Quote,
    *,
    count: int,
) -> deploy_pb2.Deployment:
    """Create a deployment, and its endpoint where that is not there."""
    serverless = priced.kind == billing_pb2.OFFER_KIND_SERVERLESS
    kind = deploy_pb2.ENDPOINT_KIND_SERVERLESS if serverless else deploy_pb2.ENDPOINT_KIND_MANAGED
    try:
        await modelyard.deploy.CreateEndpoint(
            deploy_pb2.CreateEndpointRequest(parent=parent, endpoint_id=endpoint, kind=kind)
        )
    except ModelyardError as refused:
        if refused.reason != "ENDPOINT_EXISTS":
            raise
    created: deploy_pb2.Deployment = await modelyard.deploy.CreateDeployment(
        deploy_pb2.CreateDeploymentRequest(
            parent=f"{parent}/endpoints/{endpoint}",
            deployment_id=deployment,
            model_version=version,
            instance_type=priced.instance_type,
            instance_count=count,
            quote=priced.name,
        )
    )
    return created


async def wait_active(modelyard: Modelyard, created: deploy_pb2.Deployment, *, as_json: bool = False) -> None:
    """Show every state until the deployment answers.

    Raises:
        typer.Exit: it failed, or was deleted meanwhile.
    """
    began = time.monotonic()
    with err.status(f"{_address(created.name)}: waiting for the first state"):
        async for seen in watch_deployment(modelyard, created.name):
            if as_json:
                json_line(seen)
            else:
                out.print(f"{time.monotonic() - began:6.1f} s  {_state_words(seen)}")
            if seen.state == deploy_pb2.DEPLOYMENT_STATE_ACTIVE:
                return
            if seen.state == deploy_pb2.DEPLOYMENT_STATE_FAILED:
                err.print(f"`modelyard logs {_address(seen.name)}` shows why; it is billed until it is deleted")
                raise typer.Exit(1)
    raise typer.Exit(1)


def default_name(version: str) -> str:
    """A deployment's name from its model's."""
    model = version.partition("/models/")[2].partition("/")[0].lower()
    name = re.sub(r"[^a-z0-9]+", "-", model).strip("-")[:NAME_LENGTH_MAX].rstrip("-")
    return name if len(name) >= 3 and name[0].isalpha() else f"model-{name}"[:NAME_LENGTH_MAX]


def endpoints(project: Project = "", as_json: Json = False) -> None:
    """List a project's endpoints and their traffic."""

    async def work(modelyard: Modelyard) -> None:
        request = deploy_pb2.ListEndpointsRequest(parent=project_name(project))
        found = await collect(modelyard.deploy.ListEndpoints, request, "endpoints")
        if as_json:
            json_document(found)
            return
        table(
            "",
            ("endpoint", "kind", "traffic", "deployments", "since (UTC)"),
            (
                (
                    one.name.rpartition("/")[2],
                    enum_word(deploy_pb2.EndpointKind, one.kind, "ENDPOINT_KIND_"),
                    ", ".join(f"{name} {share} %" for name, share in sorted(one.traffic.items())) or "none",
                    ", ".join(one.deployments),
                    moment(one.create_time),
                )
                for one in found
            ),
        )

    run(work)


def deployments(
    project: Project = "",
    endpoint: Annotated[str, typer.Option(help="Only of this endpoint.")] = "-",
    as_json: Json = False,
) -> None:
    """List deployments with their states and instances."""

    async def work(modelyard: Modelyard) -> None:
        request = deploy_pb2.ListDeploymentsRequest(parent=f"{project_name(project)}/endpoints/{endpoint}")
        found = await collect(modelyard.deploy.ListDeployments, request, "deployments")
        if as_json:
            json_document(found)
        else:
            print_deployments(found)

    run(work)


def print_deployments(found: list[deploy_pb2.Deployment]) -> None:
    """A line a deployment."""
    table(
        "",
        ("deployment", "model version", "runs on", "state", "answering", "price version", "detail"),
        (
            (
                _address(one.name),
                short_name(one.model_version),
                f"{one.instance_count} x {one.instance_type.removeprefix('instanceTypes/')}"
                if one.instance_type
                else "shared pool",
                enum_word(deploy_pb2.DeploymentState, one.state, "DEPLOYMENT_STATE_"),
                one.ready_instance_count,
                one.price_version,
                one.state_detail,
            )
            for one in found
        ),
        right=("answering",),
    )


def watch(address: Address, project: Project = "", as_json: Json = False) -> None:
    """Show a deployment's states as they change, until it is deleted."""

    async def work(modelyard: Modelyard) -> None:
        async for seen in watch_deployment(modelyard, _name(project, address)):
            if as_json:
                json_line(seen)
            else:
                out.print(_state_words(seen))

    run(work)


def scale(
    address: Address,
    count: Annotated[int, typer.Argument(help="Wanted instances.")],
    project: Project = "",
    wait: Annotated[bool, typer.Option(help="Watch until all answer.")] = True,
    as_json: Json = False,
) -> None:
    """Change how many instances a managed deployment has; the price of each stays."""

    async def work(modelyard: Modelyard) -> None:
        request = deploy_pb2.ScaleDeploymentRequest(name=_name(project, address), instance_count=count)
        changed = await modelyard.deploy.ScaleDeployment(request)
        if wait:
            await wait_scaled(modelyard, changed.name, count, as_json=as_json)
        elif as_json:
            json_line(changed)
        else:
            out.print(_state_words(changed))

    run(work)


async def wait_scaled(modelyard: Modelyard, name: str, count: int, *, as_json: bool = False) -> deploy_pb2.Deployment:
    """Show every state until exactly `count` instances answer.

    Raises:
        typer.Exit: it failed, or was deleted meanwhile.
    """
    async for seen in watch_deployment(modelyard, name):
        if as_json:
            json_line(seen)
        else:
            out.print(_state_words(seen))
        if seen.state == deploy_pb2.DEPLOYMENT_STATE_ACTIVE and seen.ready_instance_count == count:
            return seen
        if seen.state == deploy_pb2.DEPLOYMENT_STATE_FAILED:
            break
    raise typer.Exit(1)


def traffic(
    endpoint: Annotated[str, typer.Argument(help="Which endpoint.")],
    shares: Annotated[list[str], typer.Argument(help="The whole split: DEPLOYMENT=PERCENT …, totalling 100.")],
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Set how calls that name no deployment are split."""
    split: dict[str, int] = {}
    for share in shares:
        name, equals, percent = share.partition("=")
        if not equals or not percent.isdigit():
            raise UsageMistake(f"{share!r} is not of the form DEPLOYMENT=PERCENT, such as blue=90")
        split[name] = int(percent)

    async def work(modelyard: Modelyard) -> None:
        request = deploy_pb2.UpdateEndpointTrafficRequest(
            name=f"{project_name(project)}/endpoints/{endpoint}", traffic=split
        )
        changed = await modelyard.deploy.UpdateEndpointTraffic(request)
        if as_json:
            json_document(changed)
        else:
            out.print(", ".join(f"{name} {share} %" for name, share in sorted(changed.traffic.items())))

    run(work)


def delete(
    address: Annotated[str, typer.Argument(metavar="ENDPOINT[/DEPLOYMENT]", help="What to delete.")],
    project: Project = "",
    force: Annotated[bool, typer.Option("--force", help="Also a deployment that takes traffic.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a deployment, or an endpoint with all its deployments and keys."""
    endpoint, slash, _ = address.partition("/")
    if not slash and not yes and sys.stdin.isatty():
        typer.confirm(f"Delete endpoint {endpoint!r} with its deployments and keys?", abort=True)

    async def work(modelyard: Modelyard) -> None:
        if slash:
            name = _name(project, address)
            await modelyard.deploy.DeleteDeployment(deploy_pb2.DeleteDeploymentRequest(name=name, force=force))
        else:
            name = f"{project_name(project)}/endpoints/{endpoint}"
            await modelyard.deploy.DeleteEndpoint(deploy_pb2.DeleteEndpointRequest(name=name))
        if as_json:
            json_document({"deleted": name})
        else:
            out.print(f"{address} is being deleted; instances are billed to the moment they end")

    run(work)


def logs(
    address: Address,
    project: Project = "",
    instance: Annotated[str, typer.Option(help="Immutable id of the instance; the oldest that lives if not set.")] = "",
    lines: Annotated[int, typer.Option("--lines", "-n", help="Most lines.")] = 100,
    as_json: Json = False,
) -> None:
    """Show the last lines that an instance of a deployment wrote."""

    async def work(modelyard: Modelyard) -> None:
        request = deploy_pb2.GetDeploymentLogsRequest(name=_name(project, address), instance_uid=instance, lines=lines)
        found = await modelyard.deploy.GetDeploymentLogs(request)
        if as_json:
            json_document(found)
            return
        for line in found.lines:
            print(line)

    run(work)


def _name(project: str, address: str) -> str:
    endpoint, slash, deployment = address.partition("/")
    if not slash or not deployment:
        raise UsageMistake(f"{address!r} is not ENDPOINT/DEPLOYMENT; `modelyard deployments` shows them")
    return f"{project_name(project)}/endpoints/{endpoint}/deployments/{deployment}"


def _address(name: str) -> str:
    _, _, endpoint, _, deployment = name.split("/")[1:]
    return f"{endpoint}/{deployment}"


def _state_words(seen: deploy_pb2.Deployment) -> str:
    state = enum_word(deploy_pb2.DeploymentState, seen.state, "DEPLOYMENT_STATE_")
    if seen.state == deploy_pb2.DEPLOYMENT_STATE_ACTIVE and not seen.instance_count and not seen.ready_instance_count:
        return f"{_address(seen.name)} is {state}, its provider answers"
    wanted = f" of {seen.instance_count}" if seen.instance_count else ""
    detail = f": {seen.state_detail}" if seen.state_detail else ""
    return f"{_address(seen.name)} is {state}, {seen.ready_instance_count}{wanted} answering{detail}"
