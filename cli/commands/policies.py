"""A project's policy: which models it may take into use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from modelyard.catalog.v1 import governance_pb2
from modelyard_client import Modelyard

from cli.commands.discover import find_model
from cli.output import Json, facts, json_document, moment, out, short_name, table
from cli.session import Project, UsageMistake, collect, project_name, run

policy = typer.Typer(help="Which models a project may take into use.", no_args_is_help=True)
Collections = Annotated[list[str], typer.Option("--allow-collection", help="Only models of these collections.")]
Publishers = Annotated[list[str], typer.Option("--allow-publisher", help="Only models of these publishers.")]
Licenses = Annotated[list[str], typer.Option("--allow-license", help="Only models under these licences.")]
Blocked = Annotated[list[str], typer.Option("--block", help="Not these models, or single versions of them.")]
# What a dry run shows of the models that are refused.
_SHOWN_MAX = 20


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.add_typer(policy, name="policy")


@policy.command("show")
def show(project: Project = "", as_json: Json = False) -> None:
    """Show a project's policy."""

    async def work(modelyard: Modelyard) -> None:
        name = f"{project_name(project)}/policy"
        found = await modelyard.governance.GetPolicy(governance_pb2.GetPolicyRequest(name=name))
        if as_json:
            json_document(found)
        else:
            _print_policy(found)

    run(work)


@policy.command("set")
def set_policy(
    project: Project = "",
    collections: Collections = [],  # noqa: B006 - typer copies it
    publishers: Publishers = [],  # noqa: B006
    licenses: Licenses = [],  # noqa: B006
    blocked: Blocked = [],  # noqa: B006
    allow_all: Annotated[bool, typer.Option("--allow-all", help="Take every rule away.")] = False,
    etag: Annotated[str, typer.Option(help="Change only what has this etag.")] = "",
    as_json: Json = False,
) -> None:
    """Replace a project's policy as a whole; deployments that run go on."""
    if allow_all == bool(collections or publishers or licenses or blocked):
        raise UsageMistake(
            "name the rules of the whole new policy, or --allow-all; `modelyard policy check` tries them"
        )

    async def work(modelyard: Modelyard) -> None:
        wanted = await _policy(modelyard, collections, publishers, licenses, blocked)
        wanted.name, wanted.etag = f"{project_name(project)}/policy", etag
        changed = await modelyard.governance.UpdatePolicy(governance_pb2.UpdatePolicyRequest(policy=wanted))
        if as_json:
            json_document(changed)
        else:
            _print_policy(changed)

    run(work)


@policy.command("check")
def check(
    project: Project = "",
    collections: Collections = [],  # noqa: B006 - typer copies it
    publishers: Publishers = [],  # noqa: B006
    licenses: Licenses = [],  # noqa: B006
    blocked: Blocked = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Show what these rules would refuse, or what the present ones do where none are named; nothing changes."""

    async def work(modelyard: Modelyard) -> None:
        parent, named = project_name(project), bool(collections or publishers or licenses or blocked)
        wanted = await _policy(modelyard, collections, publishers, licenses, blocked) if named else None
        tried = await modelyard.governance.CheckPolicy(governance_pb2.CheckPolicyRequest(parent=parent, policy=wanted))
        request = governance_pb2.ListPolicyRefusalsRequest(parent=parent, policy=wanted)
        if as_json:
            refused = await collect(modelyard.governance.ListPolicyRefusals, request, "refusals")
            json_document({"summary": tried, "refused_models": refused})
            return
        request.page_size = _SHOWN_MAX
        _print_tried(tried, (await modelyard.governance.ListPolicyRefusals(request)).refusals)

    run(work)


async def _policy(
    modelyard: Modelyard, collections: list[str], publishers: list[str], licenses: list[str], blocked: list[str]
) -> governance_pb2.Policy:
    return governance_pb2.Policy(
        allowed_collections=[_prefixed("collections/", name) for name in collections],
        allowed_publishers=[_prefixed("publishers/", name) for name in publishers],
        allowed_licenses=licenses,
        blocked=[await _blocked_name(modelyard, name) for name in blocked],
    )


async def _blocked_name(modelyard: Modelyard, name: str) -> str:
    """The resource name of a model or version; what is written whole may name one that is not there yet."""
    if name.startswith(("publishers/", "projects/")):
        return name
    model, slash, version = name.partition("/versions/")
    return f"{(await find_model(modelyard, model)).name}{slash}{version}"


def _prefixed(prefix: str, name: str) -> str:
    return name if name.startswith(prefix) else prefix + name


def _print_policy(found: governance_pb2.Policy) -> None:
    rules = [
        ("collections", [name.removeprefix("collections/") for name in found.allowed_collections]),
        ("publishers", [name.removeprefix("publishers/") for name in found.allowed_publishers]),
        ("licences", list(found.allowed_licenses)),
    ]
    facts(
        [
            *((f"allowed {rule}", ", ".join(names) or "all") for rule, names in rules),
            ("blocked", ", ".join(short_name(name) for name in found.blocked) or "nothing"),
            ("changed by", found.update_principal),
            ("at (UTC)", moment(found.update_time)),
            ("etag", found.etag),
        ]
    )


def _print_tried(tried: governance_pb2.CheckPolicyResponse, models: Sequence[governance_pb2.PolicyRefusal]) -> None:
    for entry in tried.unmatched:
        out.print(f"[yellow]{entry} matches nothing in the catalog now[/]")
    out.print(f"{tried.refused_model_count:,} of {tried.model_count:,} models would be refused")
    for title, refused in (
        (
            f"{len(tried.refused_deployments)} of {tried.deployment_count} deployments; they go on",
            tried.refused_deployments,
        ),
        (f"Models, at most {_SHOWN_MAX} (all with --json)", models),
    ):
        if refused:
            table(title, ("name", "rules"), ((one.name, ", ".join(one.rules)) for one in refused), whole=("name",))
