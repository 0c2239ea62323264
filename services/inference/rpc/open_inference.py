"""Open Inference Protocol v2 as an allow-list; whatever is not here is refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tritonclient.grpc import service_pb2, service_pb2_grpc

from chassis.errors import Problem
from services.inference.access.keys import KeyDirectory
from services.inference.access.routes import Destination
from services.inference.domain.errors import RequestInvalid
from services.inference.rpc.servicer import KeyedServicer
from services.inference.usecases.calls import Calls

Context = Any
SERVICE = "inference.GRPCInferenceService"
REQUEST_PARAMETERS = frozenset({"triton_enable_empty_final_response"})
MODEL_VERSION = "1"


class OpenInferenceServicer(KeyedServicer, service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Model names are `ENDPOINT` or `ENDPOINT/DEPLOYMENT` of managed endpoints; versions are ours to choose.

    Methods that are not overridden here (repository, statistics, trace, log, shared memory) answer UNIMPLEMENTED.

    Args:
        concurrent_calls_max: Requests of one stream that run side by side.
    """

    def __init__(self, keys: KeyDirectory, calls: Calls, *, concurrent_calls_max: int) -> None:
        super().__init__(keys)
        self._calls = calls
        self._concurrent_calls_max = concurrent_calls_max

    async def ServerLive(self, request: Any, context: Context) -> service_pb2.ServerLiveResponse:
        return service_pb2.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Context) -> service_pb2.ServerReadyResponse:
        return service_pb2.ServerReadyResponse(ready=not self._calls.journal.refusing)

    async def ServerMetadata(self, request: Any, context: Context) -> service_pb2.ServerMetadataResponse:
        return service_pb2.ServerMetadataResponse(name="modelyard", version="1")

    async def ModelReady(self, request: Any, context: Context) -> service_pb2.ModelReadyResponse:
        try:
            await self._destination(request.name, request.version)
        except Problem:
            return service_pb2.ModelReadyResponse(ready=False)
        return service_pb2.ModelReadyResponse(ready=True)

    async def ModelMetadata(self, request: Any, context: Context) -> service_pb2.ModelMetadataResponse:
        destination = await self._destination(request.name, request.version)
        target = self._calls.backend.choose(destination.deployment.targets)
        inner = service_pb2.ModelMetadataRequest(name=target.model_name)
        answer = await self._calls.backend.ask(target, "ModelMetadata", inner)
        answer.name = request.name
        return answer

    async def ModelConfig(self, request: Any, context: Context) -> service_pb2.ModelConfigResponse:
        destination = await self._destination(request.name, request.version)
        target = self._calls.backend.choose(destination.deployment.targets)
        inner = service_pb2.ModelConfigRequest(name=target.model_name)
        answer = await self._calls.backend.ask(target, "ModelConfig", inner)
        answer.config.name = request.name
        # Parameters name files of the instance; they are no business of callers.
        answer.config.parameters.clear()
        return answer

    async def ModelInfer(
        self, request: service_pb2.ModelInferRequest, context: Context
    ) -> service_pb2.ModelInferResponse:
        check_request(request)
        return await self._calls.infer(self.key(), request)

    async def ModelStreamInfer(
        self, requests: AsyncIterator[service_pb2.ModelInferRequest], context: Context
    ) -> AsyncIterator[service_pb2.ModelStreamInferResponse]:
        """Each request of the stream is a call of its own; they run side by side, and responses come as they are made."""
        key = self.key()
        answers: asyncio.Queue[service_pb2.ModelStreamInferResponse | None] = asyncio.Queue(maxsize=16)
        places = asyncio.Semaphore(self._concurrent_calls_max)

        async def call(request: service_pb2.ModelInferRequest) -> None:
            try:
                check_request(request)
                async with contextlib.aclosing(self._calls.raw(key, request)) as responses:
                    async for response in responses:
                        await answers.put(service_pb2.ModelStreamInferResponse(infer_response=response))
            except Problem as problem:
                answer = service_pb2.ModelStreamInferResponse(error_message=f"{problem.reason}: {problem.message}")
                answer.infer_response.id = request.id
                await answers.put(answer)
            finally:
                places.release()

        async def read() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    async for request in requests:
                        await places.acquire()
                        group.create_task(call(request))
            except Exception:
                # What nobody expected ends the stream, and is raised there.
                await answers.put(None)
                raise
            await answers.put(None)

        reading = asyncio.create_task(read())
        try:
            while (answer := await answers.get()) is not None:
                yield answer
            await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _destination(self, name: str, version: str) -> Destination:
        _check_version(version)
        return await self._calls.raw_destination(self.key(), name)


def check_request(request: service_pb2.ModelInferRequest) -> None:
    """Refuse what would reach past the contract.

    Raises:
        RequestInvalid: another version, an unknown parameter, or shared memory.
    """
    _check_version(request.model_version)
    if unknown := sorted(set(request.parameters) - REQUEST_PARAMETERS):
        raise RequestInvalid(f"request parameter {unknown[0][:64]!r} is not taken", field="parameters")
    for tensor in (*request.inputs, *request.outputs):
        if tensor.parameters:
            name = sorted(tensor.parameters)[0]
            raise RequestInvalid(
                f"parameter {name[:64]!r} of tensor {tensor.name[:64]!r} is not taken", field="parameters"
            )


def _check_version(version: str) -> None:
    if version not in ("", MODEL_VERSION):
        raise RequestInvalid(
            f"model_version {version[:32]!r}; leave it empty: the deployment decides", field="model_version"
        )
