"""Channels from one service to another, acting as itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from chassis.errors import DependencyUnavailable
from chassis.rpc.status import problem_from_rpc_error
from chassis.telemetry import request_id, traceparent

CredentialSource = Callable[[], str]

# UNAVAILABLE means the call was not taken; everything else may have had an effect.
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)


def token_from_file(path: Path | None) -> CredentialSource:
    """Reads the token anew at every call, so that a renewed file is taken up."""

    def read() -> str:
        if path is None:
            raise DependencyUnavailable("no service token is set; set service_token_file")
        return path.read_text().strip()

    return read


class _Credential(grpc.aio.UnaryUnaryClientInterceptor):
    """Adds the service's token, the request id and a deadline."""

    def __init__(self, credential: CredentialSource, deadline_s: float) -> None:
        self._credential = credential
        self._deadline_s = deadline_s

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        metadata.add("authorization", f"Bearer {self._credential()}")
        if current := request_id.get():
            metadata.add("x-request-id", current)
        if parent := traceparent():
            metadata.add("traceparent", parent)
        call = grpc.aio.ClientCallDetails(
            details.method,
            details.timeout if details.timeout is not None else self._deadline_s,
            metadata,
            details.credentials,
            details.wait_for_ready,
        )
        return await continuation(call, request)


def service_channel(
    address: str,
    credential: CredentialSource,
    *,
    root_certificates_file: Path | None = None,
    deadline_s: float = 10.0,
) -> grpc.aio.Channel:
    """A channel to another service; unary calls only, which is all that services ask of each other."""
    options = [("grpc.service_config", _SERVICE_CONFIG), ("grpc.enable_retries", 1)]
    interceptors = [_Credential(credential, deadline_s)]
    if root_certificates_file is None:
        return grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)
    credentials = grpc.ssl_channel_credentials(root_certificates_file.read_bytes())
    return grpc.aio.secure_channel(address, credentials, options=options, interceptors=interceptors)


__all__ = ["problem_from_rpc_error", "service_channel", "token_from_file"]
