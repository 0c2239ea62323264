"""A gRPC proxy that forwards and does nothing else, written as inference is: the most that its shape can give.

    python -m bench.proxy ENGINE_ADDRESS HEADER VALUE

Prints its port.
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
import uvloop
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bench.engine import NOOP


class _Forward(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, address: str, headers: tuple[tuple[str, str], ...]) -> None:
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.aio.insecure_channel(address))
        self._headers = headers

    async def ModelInfer(self, request: service_pb2.ModelInferRequest, context: Any) -> service_pb2.ModelInferResponse:
        request.model_name = NOOP
        return await self._stub.ModelInfer(request, metadata=self._headers, timeout=60.0)


async def _main(address: str, header: str, value: str) -> None:
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Forward(address, ((header, value),)), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
