"""Try a model without a deployment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from modelyard.inference.v1 import inference_pb2, trials_pb2
from modelyard_client import Modelyard

from cli.commands.calls import read_files
from cli.commands.discover import find_model, models
from cli.output import Json, err, json_line, out
from cli.session import Project, UsageMistake, project_name, run


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    models.command("try")(try_model)


def try_model(
    name: Annotated[str, typer.Argument(help="Name, PUBLISHER/NAME, or the whole resource name.")],
    text: Annotated[str, typer.Argument(help="What to ask; standard input where it is -.")] = "",
    file: Annotated[Path | None, typer.Option(help="Audio file or image, for models that take one.")] = None,
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Ask a model that runs here once, without a deployment and at no cost."""
    if bool(text) == (file is not None):
        raise UsageMistake("say what to ask, or name a file with --file for a model of speech or images")
    asked = sys.stdin.read() if text == "-" else text
    content = read_files([file])[0] if file is not None else b""
    parent = project_name(project)

    async def work(modelyard: Modelyard) -> None:
        model = await find_model(modelyard, name)
        request = trials_pb2.TryModelRequest(parent=parent, model=model.name, text=asked, file=content)
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
    for label in piece.labels:
        out.print(f"{label.score:.4f}  {label.label}", markup=False)
    if piece.HasField("usage"):
        if not piece.embedding and not piece.labels:
            print()
        err.print(f"[dim]{_used(piece.usage)}, at no cost; record {piece.id}[/]")


def _used(usage: inference_pb2.Usage) -> str:
    if usage.audio_milliseconds:
        return f"{usage.audio_milliseconds / 1000:,.3f} s of audio"
    if usage.images:
        return f"{usage.images} image"
    return f"{usage.input_tokens} tokens in, {usage.output_tokens} out"
