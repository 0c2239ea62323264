"""Code to copy, with one's own endpoint in it."""

from __future__ import annotations

from typing import Annotated

import typer
from modelyard.catalog.v1 import catalog_pb2, code_samples_pb2
from modelyard.deploy.v1 import deploy_pb2
from modelyard_client import Modelyard
from rich.syntax import Syntax

from cli.commands.card import deployments_of
from cli.commands.discover import find_model, models
from cli.output import Json, enum_word, json_document, out
from cli.session import Project, run

# Whose endpoint code is written for, the first of these states first: one that is going or never came answers nobody.
_SERVING = (
    deploy_pb2.DEPLOYMENT_STATE_ACTIVE,
    deploy_pb2.DEPLOYMENT_STATE_UPDATING,
    deploy_pb2.DEPLOYMENT_STATE_CREATING,
)


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    models.command("samples")(samples)


def samples(
    name: Annotated[str, typer.Argument(help="Name, PUBLISHER/NAME, or the whole resource name.")],
    project: Project = "",
    endpoint: Annotated[str, typer.Option(help="Endpoint to fill in; your first one of this model otherwise.")] = "",
    purpose: Annotated[str, typer.Option(help="call, deploy or evaluate.")] = "",
    client: Annotated[str, typer.Option(help="curl, openai, azure-ai-inference, grpc or cli.")] = "",
    instance_type: Annotated[str, typer.Option(help="Deploy on managed compute of this type.")] = "",
    as_json: Json = False,
) -> None:
    """Print code for calling, deploying and evaluating a model."""

    async def work(modelyard: Modelyard) -> None:
        model = await find_model(modelyard, name)
        request = code_samples_pb2.GetCodeSamplesRequest(
            name=model.name,
            endpoint=endpoint or await _endpoint(modelyard, project, model),
            project=project.removeprefix("projects/"),
            rest_url=modelyard.addresses.rest,
            grpc_address=modelyard.addresses.inference,
            instance_type=instance_type,
        )
        answer = await modelyard.code_samples.GetCodeSamples(request)
        chosen = [
            sample
            for sample in answer.samples
            if client in ("", sample.client) and purpose in ("", _purpose(sample.purpose))
        ]
        if as_json:
            json_document(chosen)
            return
        for sample in chosen:
            out.print(f"[bold]{_purpose(sample.purpose)} with {sample.client}[/]")
            out.print(Syntax(sample.code, sample.language, background_color="default", word_wrap=True))

    run(work)


def _purpose(number: int) -> str:
    return enum_word(code_samples_pb2.CodeSamplePurpose, number, "CODE_SAMPLE_PURPOSE_")


async def _endpoint(modelyard: Modelyard, project: str, model: catalog_pb2.Model) -> str:
    """The project's first endpoint that serves the model, or will soon; empty where there is none."""
    found = await deployments_of(modelyard, project, model) if project else []
    serving = sorted((one for one in found if one.state in _SERVING), key=lambda one: _SERVING.index(one.state))
    return serving[0].name.split("/")[3] if serving else ""
