"""Who may do what: projects, members, keys, tokens, subscribers."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.deploy.v1 import deploy_pb2
from modelyard.type.v1 import access_pb2
from modelyard_client import Modelyard

from cli.output import Json, enum_word, json_document, moment, out, table
from cli.session import Project, UsageMistake, collect, current_target, project_name, run

project_group = typer.Typer(help="Tenants: each owns endpoints, keys and one bill.", no_args_is_help=True)
member_group = typer.Typer(help="Who may act in a project.", no_args_is_help=True)
key_group = typer.Typer(help="Credentials for inference, shown once.", no_args_is_help=True)
token_group = typer.Typer(help="Control-plane tokens (embedded platform).", no_args_is_help=True)
subscriber_group = typer.Typer(help="NATS credentials for dashboards.", no_args_is_help=True)

ROLES = {
    "billing-reader": access_pb2.ROLE_BILLING_READER,
    "reader": access_pb2.ROLE_READER,
    "contributor": access_pb2.ROLE_CONTRIBUTOR,
    "owner": access_pb2.ROLE_OWNER,
}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.add_typer(project_group, name="project")
    app.add_typer(member_group, name="member")
    app.add_typer(key_group, name="key")
    app.add_typer(token_group, name="token")
    app.add_typer(subscriber_group, name="subscriber")


@project_group.command("create")
def create_project(name: Annotated[str, typer.Argument()], as_json: Json = False) -> None:
    """Create a project; you become its owner."""

    async def work(modelyard: Modelyard) -> None:
        created = await modelyard.projects.CreateProject(deploy_pb2.CreateProjectRequest(project_id=name))
        if as_json:
            json_document(created)
        else:
            out.print(f"{created.name} is there, with uid {created.uid}")

    run(work)


@project_group.command("list")
def list_projects(as_json: Json = False) -> None:
    """List the projects you are a member of; an admin sees all."""

    async def work(modelyard: Modelyard) -> None:
        found = await collect(modelyard.projects.ListProjects, deploy_pb2.ListProjectsRequest(), "projects")
        if as_json:
            json_document(found)
            return
        table(
            "",
            ("project", "members", "uid", "since (UTC)"),
            (
                (
                    one.name.removeprefix("projects/"),
                    ", ".join(f"{member.principal} ({_role(member.role)})" for member in one.members),
                    one.uid,
                    moment(one.create_time),
                )
                for one in found
            ),
        )

    run(work)


@member_group.command("add")
def add_member(
    principal: Annotated[str, typer.Argument(help="Subject of the member's token.")],
    role: Annotated[str, typer.Option(help=f"One of {', '.join(ROLES)}.")],
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Give a principal a role in a project, replacing the one it had."""
    if role not in ROLES:
        raise UsageMistake(f"role {role!r} is not known; use {', '.join(ROLES)}")

    async def work(modelyard: Modelyard) -> None:
        member = access_pb2.Member(principal=principal, role=ROLES[role])
        changed = await modelyard.projects.AddMember(
            deploy_pb2.AddMemberRequest(name=project_name(project), member=member)
        )
        _show_members(changed, as_json=as_json)

    run(work)


@member_group.command("remove")
def remove_member(principal: Annotated[str, typer.Argument()], project: Project = "", as_json: Json = False) -> None:
    """Take a principal's role away."""

    async def work(modelyard: Modelyard) -> None:
        changed = await modelyard.projects.RemoveMember(
            deploy_pb2.RemoveMemberRequest(name=project_name(project), principal=principal)
        )
        _show_members(changed, as_json=as_json)

    run(work)


@member_group.command("list")
def list_members(project: Project = "", as_json: Json = False) -> None:
    """List a project's members."""

    async def work(modelyard: Modelyard) -> None:
        found = await modelyard.projects.GetProject(deploy_pb2.GetProjectRequest(name=project_name(project)))
        _show_members(found, as_json=as_json)

    run(work)


def _show_members(project: deploy_pb2.Project, *, as_json: bool) -> None:
    if as_json:
        json_document(project)
        return
    table("", ("principal", "role"), ((member.principal, _role(member.role)) for member in project.members))


@key_group.command("create")
def create_key(
    project: Project = "",
    endpoints: Annotated[str, typer.Option(help="Endpoints it may call, joined by commas; all if not set.")] = "",
    expires: Annotated[str, typer.Option(help="How long it works, such as 12h or 30d; for ever if not set.")] = "",
    as_json: Json = False,
) -> None:
    """Make a project key. It is shown this once."""
    request = deploy_pb2.CreateApiKeyRequest(
        parent=project_name(project), endpoints=[name for name in endpoints.split(",") if name]
    )
    if expires:
        expire_time = Timestamp()
        expire_time.FromDatetime(datetime.now(UTC) + duration(expires))
        request.expire_time.CopyFrom(expire_time)

    async def work(modelyard: Modelyard) -> None:
        _show_secret(await modelyard.projects.CreateApiKey(request), as_json=as_json)

    run(work)


def _show_secret(made: deploy_pb2.CreateApiKeyResponse, *, as_json: bool) -> None:
    if as_json:
        json_document(made)
        return
    key = made.api_key
    out.print(made.secret, soft_wrap=True)
    scope = ", ".join(key.endpoints) or "every endpoint of the project"
    ends = f", until {moment(key.expire_time)} UTC" if key.HasField("expire_time") else ""
    out.print(f"[dim]Key {key.id} for {scope}{ends}. It is not shown again.[/]")


@key_group.command("list")
def list_keys(project: Project = "", as_json: Json = False) -> None:
    """List a project's keys, newest first, without their secrets."""

    async def work(modelyard: Modelyard) -> None:
        request = deploy_pb2.ListApiKeysRequest(parent=project_name(project))
        found = await collect(modelyard.projects.ListApiKeys, request, "api_keys")
        if as_json:
            json_document(found)
            return
        table(
            "",
            ("key", "kind", "endpoints", "made (UTC)", "works until"),
            (
                (
                    one.id,
                    enum_word(deploy_pb2.ApiKeyKind, one.kind, "API_KEY_KIND_"),
                    ", ".join(one.endpoints) or "all",
                    moment(one.create_time),
                    f"revoked {moment(one.revoke_time)}"
                    if one.HasField("revoke_time")
                    else moment(one.expire_time) or "for ever",
                )
                for one in found
            ),
        )

    run(work)


@key_group.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="Id of the key, as `key list` shows it.")],
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Stop a key; it stops within a second."""

    async def work(modelyard: Modelyard) -> None:
        request = deploy_pb2.RevokeApiKeyRequest(name=f"{project_name(project)}/apiKeys/{key}")
        revoked = await modelyard.projects.RevokeApiKey(request)
        if as_json:
            json_document(revoked)
        else:
            out.print(f"key {revoked.id} is revoked")

    run(work)


@key_group.command("rotate")
def rotate_key(
    endpoint: Annotated[str, typer.Argument(help="Which endpoint.")],
    which: Annotated[str, typer.Argument(help="primary or secondary.")],
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Make a new primary or secondary key of an endpoint; the old one stops, the other one works on."""
    kinds = {
        "primary": deploy_pb2.API_KEY_KIND_ENDPOINT_PRIMARY,
        "secondary": deploy_pb2.API_KEY_KIND_ENDPOINT_SECONDARY,
    }
    if which not in kinds:
        raise UsageMistake(f"{which!r} is neither primary nor secondary")

    async def work(modelyard: Modelyard) -> None:
        request = deploy_pb2.RotateEndpointKeyRequest(
            name=f"{project_name(project)}/endpoints/{endpoint}", kind=kinds[which]
        )
        _show_secret(await modelyard.projects.RotateEndpointKey(request), as_json=as_json)

    run(work)


@token_group.command("create")
def create_token(
    principal: Annotated[str, typer.Argument(help="Who it speaks for, such as an e-mail address.")],
    expires: Annotated[str, typer.Option(help="How long it works, such as 12h or 30d.")] = "30d",
    admin: Annotated[bool, typer.Option("--admin", help="May operate the whole platform.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write it to this file, mode 0600, instead of printing.")] = None,
    as_json: Json = False,
) -> None:
    """Sign a control-plane token with the key of the platform on this machine."""
    from chassis.access import issue_token
    from embedded.home import Home
    from embedded.nats_identity import write_secret

    home = Home(current_target().data_dir)
    if not home.signing_key.exists():
        raise UsageMistake(
            f"{home.signing_key} is not there: tokens are made on the machine of the platform, after its first "
            "`modelyard up`; elsewhere your OIDC issuer makes them"
        )
    token = issue_token(
        home.signing_key.read_text(), principal, expires_s=int(duration(expires).total_seconds()), admin=admin
    )
    if output is not None:
        write_secret(output.absolute(), token.encode())
        token = ""
    if as_json:
        json_document({"principal": principal, "token": token, "file": str(output or "")})
    elif output is not None:
        out.print(f"{output} holds the token of {principal}; MODELYARD_CREDENTIAL_FILE={output} uses it")
    else:
        print(token)


@subscriber_group.command("create")
def create_subscriber(
    project: Project = "",
    expires: Annotated[str, typer.Option(help="How long it works, such as 12h or 30d.")] = "365d",
    output: Annotated[Path | None, typer.Option(help="File to write, mode 0600; subscriber-PROJECT.creds.")] = None,
    as_json: Json = False,
) -> None:
    """Make a NATS credential that may subscribe one project's billing subjects, and do nothing else."""
    from embedded.home import Home
    from embedded.nats_identity import NatsIdentities, write_secret
    from embedded.topology import subscriber_permissions

    home = Home(current_target().data_dir)
    name = project_name(project)
    path = (output or Path(f"subscriber-{name.removeprefix('projects/')}.creds")).absolute()

    async def work(modelyard: Modelyard) -> None:
        if not os.access(home.nats_identities, os.R_OK):
            raise UsageMistake(
                f"{home.nats_identities} cannot be read: subscribers are made on the machine of the platform, by its owner"
            )
        found = await modelyard.projects.GetProject(deploy_pb2.GetProjectRequest(name=name))
        credential = NatsIdentities(home.nats_identities).issue_user(
            f"subscriber-{found.uid}", subscriber_permissions(found.uid), duration(expires).total_seconds()
        )
        write_secret(path, credential.encode())
        subject = f"modelyard.billing.v1.*.*.{found.uid}"
        if as_json:
            json_document({"file": str(path), "nats": modelyard.addresses.nats, "subject": subject})
            return
        out.print(f"{path} may subscribe {subject} for {expires}")
        command = f"python docs/examples/dashboard.py {modelyard.addresses.nats} {path} {found.uid}"
        out.print(f"[dim]Try it:[/] {command}", soft_wrap=True)

    run(work)


def duration(text: str) -> timedelta:
    """A duration such as 90s, 12h or 30d.

    Raises:
        UsageMistake: another form.
    """
    number, unit = text[:-1], text[-1:]
    if unit not in _SECONDS or not number.isdigit() or not int(number):
        raise UsageMistake(f"{text!r} is not a duration; write a number and one of {', '.join(_SECONDS)}, such as 30d")
    try:
        return timedelta(seconds=int(number) * _SECONDS[unit])
    except OverflowError:
        raise UsageMistake(f"{text!r} is longer than a calendar; use at most 3650d") from None


def _role(role: int) -> str:
    return enum_word(access_pb2.Role, role, "ROLE_")
