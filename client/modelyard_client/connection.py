"""Channels and stubs of one platform."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from modelyard.billing.v1 import billing_pb2_grpc
from modelyard.catalog.v1 import (
    artifacts_pb2_grpc,
    benchmarks_pb2_grpc,
    catalog_pb2_grpc,
    code_samples_pb2_grpc,
    governance_pb2_grpc,
    hub_pb2_grpc,
    imports_pb2_grpc,
    installs_pb2_grpc,
    lifecycle_pb2_grpc,
    registry_pb2_grpc,
    search_pb2_grpc,
    sources_pb2_grpc,
)
from modelyard.deploy.v1 import deploy_pb2_grpc, notices_pb2_grpc
from modelyard.events.v1 import dead_letters_pb2_grpc
from modelyard.inference.v1 import inference_pb2_grpc, operations_pb2_grpc, trials_pb2_grpc

from modelyard_client.addresses import Addresses
from modelyard_client.errors import error_from_rpc

# UNAVAILABLE means that the call was not taken, so every method may repeat it.
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "3s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
_MESSAGE_BYTES_MAX = 8 * 1024 * 1024


class Modelyard:
    """All services of a platform, called with one credential.

    Failed calls raise `ModelyardError`. Writes without a `request_id` get one, so that a retry has no second effect.

    Args:
        addresses: Where the platform answers.
        credential: The control-plane token, or a function that gives the current one.
        key: Inference key for `inference`; None calls it without.
        root_certificates: PEM of the authorities to trust; None means clear text, for loopback.
        deadline_s: Deadline of unary calls that set none.
    """

    def __init__(
        self,
        addresses: Addresses,
        credential: str | Callable[[], str],
        *,
        key: str | None = None,
        root_certificates: bytes | None = None,
        deadline_s: float = 60.0,
    ) -> None:
        self.addresses = addresses
        token = credential if callable(credential) else lambda: credential
        self._channels: list[grpc.aio.Channel] = []

        def channel(address: str, secret: Callable[[], str]) -> grpc.aio.Channel:
            opened = _open(address, _Calls(secret, deadline_s).interceptors(), root_certificates)
            self._channels.append(opened)
            return opened

        deploy, billing = channel(addresses.deploy, token), channel(addresses.billing, token)
        catalog = channel(addresses.catalog, token)
        self.catalog = catalog_pb2_grpc.CatalogServiceStub(catalog)
        self.registry = registry_pb2_grpc.RegistryServiceStub(catalog)
        self.artifacts = artifacts_pb2_grpc.ArtifactServiceStub(catalog)
        self.benchmarks = benchmarks_pb2_grpc.BenchmarkServiceStub(catalog)
        self.search = search_pb2_grpc.SearchServiceStub(catalog)
        self.code_samples = code_samples_pb2_grpc.CodeSampleServiceStub(catalog)
        self.sources = sources_pb2_grpc.SourceServiceStub(catalog)
        self.governance = governance_pb2_grpc.GovernanceServiceStub(catalog)
        self.hub = hub_pb2_grpc.HubServiceStub(catalog)
        self.imports = imports_pb2_grpc.ImportServiceStub(catalog)
        self.installs = installs_pb2_grpc.InstallServiceStub(catalog)
        self.lifecycle = lifecycle_pb2_grpc.LifecycleServiceStub(catalog)
        self.deploy = deploy_pb2_grpc.DeployServiceStub(deploy)
        self.projects = deploy_pb2_grpc.ProjectServiceStub(deploy)
        self.notices = notices_pb2_grpc.NoticeServiceStub(deploy)
        self.billing = billing_pb2_grpc.BillingServiceStub(billing)
        # Each service that consumes events keeps its own.
        self.dead_letters = {
            "catalog": dead_letters_pb2_grpc.DeadLetterServiceStub(catalog),
            "billing": dead_letters_pb2_grpc.DeadLetterServiceStub(billing),
            "deploy": dead_letters_pb2_grpc.DeadLetterServiceStub(deploy),
        }
        inference = channel(addresses.inference, token)
        self.operations = operations_pb2_grpc.InferenceOperationsServiceStub(inference)
        self.trials = trials_pb2_grpc.TrialServiceStub(inference)
        self.inference = inference_pb2_grpc.InferenceServiceStub(channel(addresses.inference, lambda: key or ""))

    @classmethod
    def from_file(cls, path: str | Path, *, credential_file: str | Path | None = None, **options: Any) -> Modelyard:
        """From addresses.json, with the admin's credential unless another is named."""
        addresses = Addresses.read(Path(path))
        secret = Path(credential_file or addresses.admin_credential_file)
        return cls(addresses, lambda: secret.read_text().strip(), **options)

    async def __aenter__(self) -> Modelyard:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every channel."""
        for opened in self._channels:
            await opened.close()


def _open(address: str, interceptors: list[Any], root_certificates: bytes | None) -> grpc.aio.Channel:
    options = [
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.enable_retries", 1),
        ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
    ]
    if root_certificates is None:
        return grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)
    credentials = grpc.ssl_channel_credentials(root_certificates)
    return grpc.aio.secure_channel(address, credentials, options=options, interceptors=interceptors)


class _Calls:
    """Adds the credential, a deadline and a request id, and raises ModelyardError."""

    def __init__(self, secret: Callable[[], str], deadline_s: float) -> None:
        self._secret = secret
        self._deadline_s = deadline_s

    def interceptors(self) -> list[Any]:
        return [_Unary(self), _Stream(self)]

    def details(self, details: Any, *, deadline: bool) -> grpc.aio.ClientCallDetails:
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        if secret := self._secret():
            metadata.add("authorization", f"Bearer {secret}")
        timeout = details.timeout
        if timeout is None and deadline:
            timeout = self._deadline_s
        return grpc.aio.ClientCallDetails(
            details.method, timeout, metadata, details.credentials, details.wait_for_ready
        )


class _Unary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
            request = type(request).FromString(request.SerializeToString())
            request.request_id = uuid.uuid4().hex
        call = await continuation(self._calls.details(details, deadline=True), request)
        try:
            return await call
        except grpc.aio.AioRpcError as failed:
            raise error_from_rpc(failed) from None


class _Stream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(self._calls.details(details, deadline=False), request)

        async def responses() -> AsyncIterator[Any]:
            try:
                async for response in call:
                    yield response
            except grpc.aio.AioRpcError as failed:
                raise error_from_rpc(failed) from None

        return responses()
