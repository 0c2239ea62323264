"""A deployment for the length of one command."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import typer
from modelyard.deploy.v1 import deploy_pb2
from modelyard_client import Modelyard, watch_deployment

from cli.commands.deployments import create_deployment
from cli.commands.prices import take_quote
from cli.output import err, problem, short_name

DEPLOYMENT = "only"


@asynccontextmanager
async def temporary_deployment(
    modelyard: Modelyard, parent: str, version: str, instance_type: str, purpose: str
) -> AsyncIterator[tuple[deploy_pb2.Deployment, str]]:
    """One instance of a version behind an endpoint of its own, with a key for it; gone afterwards, whatever happens.

    Args:
        parent: `projects/{project}` that is billed for it.
        purpose: Begins the endpoint's name.

    Raises:
        typer.Exit: it did not start.
    """
    quote = await take_quote(modelyard, parent, instance_type=instance_type)
    endpoint = f"{purpose}-{uuid.uuid4().hex[:12]}"
    deployment = await create_deployment(modelyard, parent, endpoint, DEPLOYMENT, version, quote, count=1)
    try:
        await _until_active(modelyard, deployment)
        made = await modelyard.projects.CreateApiKey(
            deploy_pb2.CreateApiKeyRequest(parent=parent, endpoints=[endpoint])
        )
        try:
            yield deployment, made.secret
        finally:
            await modelyard.projects.RevokeApiKey(deploy_pb2.RevokeApiKeyRequest(name=made.api_key.name))
    finally:
        await modelyard.deploy.DeleteEndpoint(deploy_pb2.DeleteEndpointRequest(name=f"{parent}/endpoints/{endpoint}"))


async def _until_active(modelyard: Modelyard, deployment: deploy_pb2.Deployment) -> None:
    with err.status(f"starting an instance of {short_name(deployment.model_version)}"):
        async for seen in watch_deployment(modelyard, deployment.name):
            if seen.state == deploy_pb2.DEPLOYMENT_STATE_ACTIVE:
                return
            if seen.state == deploy_pb2.DEPLOYMENT_STATE_FAILED:
                problem(f"{deployment.name} did not start: {seen.state_detail}")
                raise typer.Exit(1)
    problem(f"{deployment.name} was deleted meanwhile")
    raise typer.Exit(1)
