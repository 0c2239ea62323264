"""Try a model without a deployment."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from modelyard.inference.v1 import trials_pb2
from modelyard_client import Modelyard

from cli.commands.discover import find_model, models
from cli.output import Json, err, json_line, out
from cli.session import Project, project_name, run


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    models.command("try")(try_model)


def try_model(
    name: Annotated[str, typer.Argument(help="Name, PUBLISHER/NAME, or the whole resource name.")],
    text: Annotated[str, typer.Argument(help="What to ask; standard input where it is -.")],
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Ask a model that runs here once, without a deployment and at no cost."""
    asked = sys.stdin.read() if text == "-" else text
    parent = project_name(project)

    async def work(modelyard: Modelyard) -> None:
        model = await find_model(modelyard, name)
        request = trials_pb2.TryModelRequest(parent=parent, model=model.name, text=asked)
        async for piece in modelyard.trials.TryModel(request):
            if as_json:
                json_line(piece)
            else:
                _show(piece)

    run(work)


def _show(piece: trials_pb2.TryModelResponse) -> None:
    if piece.progress:
        err.print(f"[dim]{piece.progress}[/]")
    if piece.text:
        print(piece.text, end="", flush=True)
    if piece.embedding:
        shown = ", ".join(f"{value:+.4f}" for value in piece.embedding[:4])
        out.print(f"[{shown}, … {len(piece.embedding)} values]", markup=False)
    if piece.HasField("usage"):
        if not piece.embedding:
            print()
        err.print(
            f"[dim]{piece.usage.input_tokens} tokens in, {piece.usage.output_tokens} out, at no cost; record {piece.id}[/]"
        )
