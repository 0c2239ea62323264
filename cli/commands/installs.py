"""Install models whose files do not come with the first install."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from modelyard.catalog.v1 import installs_pb2
from modelyard_client import Modelyard
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from cli.commands.discover import find_model, models
from cli.output import Json, err, json_line, out, short_name
from cli.session import run

_WORDS = {
    installs_pb2.INSTALL_STEP_FETCHING: "fetching",
    installs_pb2.INSTALL_STEP_UNPACKING: "unpacking",
    installs_pb2.INSTALL_STEP_READING: "checking",
    installs_pb2.INSTALL_STEP_DONE: "done",
}


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    models.command("install")(install)


def install(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="Name, PUBLISHER/NAME, or the whole resource name.")],
    as_json: Json = False,
) -> None:
    """Fetch what a model needs, checked by digest; it runs here when this ends. Doing it again is free."""

    async def work(modelyard: Modelyard) -> None:
        model = await find_model(modelyard, name)
        request = installs_pb2.InstallModelRequest(name=model.name)
        fetched = 0
        with _progress(hidden=as_json) as shown:
            task = shown.add_task("looking", total=None)
            async for step in modelyard.installs.InstallModel(request):
                fetched = step.bytes_total
                if as_json:
                    json_line(step)
                shown.update(
                    task, description=_WORDS[step.step], completed=step.bytes_done, total=step.bytes_total or None
                )
        if not as_json:
            said = f"about {fetched / 1e6:.0f} MB fetched" if fetched else "everything was here"
            out.print(f"{short_name(model.name)} runs here now; {said}.", markup=False)

    run(work)


def _progress(*, hidden: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err, transient=True, disable=hidden or not sys.stderr.isatty())
