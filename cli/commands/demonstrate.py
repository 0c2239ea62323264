"""The demo command: the main job and its proof, on a platform of its own or on the one that runs."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from pathlib import Path
from typing import Annotated

import typer
from modelyard.deploy.v1 import deploy_pb2
from modelyard_client import Modelyard, ModelyardError

from cli.commands.platform import _machine_parts, _print_parts
from cli.output import err, out
from cli.session import UsageMistake, collect, connect, current_target


def add_to(app: typer.Typer) -> None:
    """Register this command."""
    app.command("demo")(demo)


def demo(
    running: Annotated[
        bool,
        typer.Option("--running", help="On the platform that runs already, in a new project; deletes its endpoints."),
    ] = False,
) -> None:
    """Run the main job on a platform of its own: discover, quote, deploy, call, scale, bill, proof."""
    try:
        asyncio.run(_on_running() if running else _on_own())
    except KeyboardInterrupt:
        out.print("Interrupted." if running else "Interrupted; everything is stopped.")
        raise typer.Exit(130) from None


async def _on_running() -> None:
    """The proof reads what the keepers wrote, so this runs where deploy's data folder can be read."""
    from cli.demo.run import DemoFailed, run_demo
    from embedded.home import Home

    async with connect() as modelyard:
        home = Home(Path(modelyard.addresses.data_dir))
        if not home.service_data("deploy").is_dir():
            raise UsageMistake(
                f"the proof needs the keepers' files, and {home.service_data('deploy')} is not there; run this on the "
                "machine of deploy, or without --running"
            )
        project = f"demo-{secrets.token_hex(4)}"
        try:
            await run_demo(modelyard, home.instances, project=project)
        except (DemoFailed, ModelyardError) as failed:
            err.print(f"[bold red]The demo failed:[/] {failed}")
            raise typer.Exit(1) from None
        finally:
            await _delete_endpoints(modelyard, f"projects/{project}")
    out.print(f"The endpoints of {project} are deleted; its bill stays.")


async def _delete_endpoints(modelyard: Modelyard, project: str) -> None:
    endpoints = deploy_pb2.ListEndpointsRequest(parent=project)
    for endpoint in await collect(modelyard.deploy.ListEndpoints, endpoints, "endpoints"):
        await modelyard.deploy.DeleteEndpoint(deploy_pb2.DeleteEndpointRequest(name=endpoint.name))


async def _on_own() -> None:
    from cli.demo.run import DemoFailed, run_demo
    from embedded.home import Home, HomeUnusable
    from embedded.logs import LogFiles
    from embedded.platform import Platform, PlatformFailed

    bad = [part for part in _machine_parts() if not part.ok]
    if bad:
        _print_parts(bad)
        raise typer.Exit(1)
    folder = current_target().data_dir.absolute() / "demo"
    home = Home(folder)
    if home.running_pid() is not None:
        raise UsageMistake(f"a demo runs in {folder} already (process {home.running_pid()}); wait for it, or stop it")
    # Each demo begins with an empty platform: its proof is about all calls and instances there are.
    shutil.rmtree(folder, ignore_errors=True)
    logs = LogFiles(home.logs)
    platform = Platform(home, logs.write)
    began = time.monotonic()
    try:
        with err.status("starting NATS, catalog, deploy, billing and inference"):
            await platform.start()
        out.print(f"The platform is ready after {time.monotonic() - began:.1f} s; logs are in {home.logs}\n")
        async with Modelyard.from_file(home.addresses) as modelyard:
            await run_demo(modelyard, home.instances)
    except (DemoFailed, PlatformFailed, HomeUnusable, ModelyardError) as failed:
        err.print(f"[bold red]The demo failed:[/] {failed}\nLogs are in {home.logs}")
        raise typer.Exit(1) from None
    finally:
        with err.status("stopping the platform"):
            await platform.stop()
        logs.close()
    out.print(f"Everything is stopped. State and logs stay in {folder} until the next demo.")
    out.print("Next: [bold]make up[/], then the README's 'Run it'.")
