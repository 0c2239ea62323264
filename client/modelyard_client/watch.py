"""Watches that go on where they ended when the connection is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from modelyard.billing.v1 import billing_pb2
from modelyard.deploy.v1 import deploy_pb2

from modelyard_client.connection import Modelyard
from modelyard_client.errors import ModelyardError

RETRY_S = 0.5


async def watch_deployment(modelyard: Modelyard, name: str) -> AsyncIterator[deploy_pb2.Deployment]:
    """A deployment as it is and after every change, until it is deleted.

    Raises:
        ModelyardError: anything but a lost connection.
    """
    revision = 0
    while True:
        request = deploy_pb2.WatchDeploymentRequest(name=name, after_revision=revision)
        try:
            async for deployment in modelyard.deploy.WatchDeployment(request):
                revision = deployment.revision
                yield deployment
            return
        except ModelyardError as error:
            if error.code != "UNAVAILABLE":
                raise
        await asyncio.sleep(RETRY_S)


async def watch_usage(
    modelyard: Modelyard, project: str, resume_token: str = ""
) -> AsyncIterator[billing_pb2.WatchUsageResponse]:
    """Usage as it is posted; every response carries the token to go on with later. Nothing is missed or repeated.

    Args:
        project: `projects/{project}`.

    Raises:
        ModelyardError: anything but a lost connection.
    """
    while True:
        request = billing_pb2.WatchUsageRequest(parent=project, resume_token=resume_token)
        try:
            async for response in modelyard.billing.WatchUsage(request):
                resume_token = response.resume_token
                yield response
        except ModelyardError as error:
            if error.code != "UNAVAILABLE":
                raise
        await asyncio.sleep(RETRY_S)
