"""Verify that a model runs as its card says: deploy it anew, call its samples again."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from modelyard.catalog.v1 import catalog_pb2
from modelyard_client import Modelyard

from cli.commands.catalog import catalog, shipped_content
from cli.commands.discover import find_model
from cli.output import Json, enum_word, err, facts, json_document, out
from cli.session import Project, UsageMistake, project_name, run
from cli.temporary import temporary_deployment

if TYPE_CHECKING:
    from cli.replay import Replayed

_CALL_S_MAX = 120.0
_INSTANCE_TYPE = "local-1"


@catalog.command("verify")
def verify(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="Name, PUBLISHER/NAME, or the whole resource name.")],
    project: Project = "",
    instance_type: Annotated[
        str, typer.Option(help="Where to try it; the type it was verified on before, else local-1.")
    ] = "",
    files: Annotated[
        Path | None,
        typer.Option(help="Folder of files that samples name; those that come with the platform otherwise."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Deploy a model anew, call its card's samples again, compare, and delete it; the project pays for the instance."""
    parent = project_name(project)

    async def work(modelyard: Modelyard) -> None:
        model = await find_model(modelyard, name)
        if not model.samples:
            raise UsageMistake(f"the card of {model.name} has no samples to call")
        version = await modelyard.catalog.GetModelVersion(catalog_pb2.GetModelVersionRequest(name=model.latest_version))
        if not version.HasField("serving"):
            raise UsageMistake(f"{model.name} does not run here: {model.usability_detail}")
        tried_on = instance_type or next((one.instance_type for one in version.verified), _INSTANCE_TYPE)
        deployed = temporary_deployment(modelyard, parent, version.name, tried_on, "verify")
        async with deployed as (deployment, key):
            endpoint = deployment.name.split("/")[3]
            replayed = await _replay_all(modelyard, key, endpoint, model, files or shipped_content() / "samples")
        _tell(version, tried_on, replayed, as_json=as_json)
        if any(one.differences for one in replayed):
            raise typer.Exit(1)

    run(work)


async def _replay_all(
    modelyard: Modelyard, key: str, endpoint: str, model: catalog_pb2.Model, files: Path
) -> list[Replayed]:
    # Half of what every command would take to start, and no other command needs it.
    from openai import AsyncOpenAI

    from cli.replay import SampleUnusable, replay

    base_url = f"{modelyard.addresses.rest}/v1"
    async with AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=_CALL_S_MAX) as client:
        with err.status(f"calling the samples of {model.display_name}"):
            try:
                return [
                    await replay(client, endpoint, sample.title, sample.input, sample.output, files)
                    for sample in model.samples
                ]
            except SampleUnusable as unusable:
                raise UsageMistake(str(unusable)) from None


def _tell(version: catalog_pb2.ModelVersion, instance_type: str, replayed: list[Replayed], *, as_json: bool) -> None:
    day = datetime.now(UTC).date().isoformat()
    parameters = dict(version.serving.parameters)
    verified = not any(one.differences for one in replayed)
    if as_json:
        json_document(
            {
                "model_version": version.name,
                "verified": verified,
                "configuration": {
                    "engine": version.serving.engine,
                    "parameters": parameters,
                    "instance_type": instance_type,
                    "date": day,
                },
                "samples": [asdict(one) for one in replayed],
            }
        )
        return
    facts(
        [
            ("version", version.name),
            ("tasks", ", ".join(enum_word(catalog_pb2.Task, task, "TASK_") for task in version.tasks)),
            ("engine", version.serving.engine),
            ("parameters", ", ".join(f"{key}={value}" for key, value in sorted(parameters.items()))),
            ("instance type", instance_type),
            ("date", day),
        ]
    )
    for one in replayed:
        out.print(
            f"[{'bold red' if one.differences else 'green'}]{'differs' if one.differences else 'as stated'}[/]  ",
            end="",
        )
        out.print(f"{one.title}, {one.path}", markup=False)
        for difference in one.differences:
            out.print(f"  {difference}", markup=False)
    if verified:
        out.print(
            f"verified; its content may say `verified: [{{instance_type: {instance_type}, date: {day}}}]`", markup=False
        )
