"""What a platform refused, in full."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


@dataclass
class ModelyardError(Exception):
    """An answer that is no success.

    `code` is the gRPC status name, `reason` one of docs/errors.md, `message` says the value, the limit and the way out.
    """

    code: str
    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)
    retry_after_s: float | None = None

    def __str__(self) -> str:
        return self.message


def error_from_rpc(failed: grpc.aio.AioRpcError) -> ModelyardError:
    """The error inside a failed call, with its details."""
    error = ModelyardError(failed.code().name, failed.code().name, failed.details() or failed.code().name)
    status = rpc_status.from_call(failed)
    for detail in status.details if status is not None else ():
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            error.reason, error.metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(retry):
            error.retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    return error
