"""The demo command: a platform of its own, the main job, the proof."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import typer
from modelyard_client import Modelyard, ModelyardError

from cli.commands.platform import _machine_parts, _print_parts
from cli.output import err, out
from cli.session import UsageMistake, current_target


def add_to(app: typer.Typer) -> None:
    """Register this command."""
    app.command("demo")(demo)


def demo() -> None:
    """Run the main job on a platform of its own: discover, quote, deploy, call, scale, bill, proof."""
    bad = [part for part in _machine_parts() if not part.ok]
    if bad:
        _print_parts(bad)
        raise typer.Exit(1)
    folder = current_target().data_dir.absolute() / "demo"
    try:
        asyncio.run(_demo(folder))
    except KeyboardInterrupt:
        out.print("Interrupted; everything is stopped.")
        raise typer.Exit(130) from None


async def _demo(folder: Path) -> None:
    from cli.demo.run import DemoFailed, run_demo
    from embedded.home import Home, HomeUnusable
    from embedded.logs import LogFiles
    from embedded.platform import Platform, PlatformFailed

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
            await run_demo(modelyard, home.service_data("deploy") / "instances")
    except (DemoFailed, PlatformFailed, HomeUnusable, ModelyardError) as failed:
        err.print(f"[bold red]The demo failed:[/] {failed}\nLogs are in {home.logs}")
        raise typer.Exit(1) from None
    finally:
        with err.status("stopping the platform"):
            await platform.stop()
        logs.close()
    out.print(f"Everything is stopped. State and logs stay in {folder} until the next demo.")
    out.print("Next: [bold]make up[/], then the README's 'Run it'.")
