"""Triton over gRPC: the contracts of the text and embedding engines, and raw tensors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import grpc
from modelyard.deploy.v1 import routes_pb2
from opentelemetry.trace import SpanKind
from tritonclient.grpc import service_pb2, service_pb2_grpc

from chassis.instance_secret import INSTANCE_SECRET_HEADER, instance_secret
from chassis.telemetry import span, traceparent
from services.inference.backends.words import NothingRead, problem_of, problem_of_code, refusal
from services.inference.domain.balance import choose_least_loaded
from services.inference.domain.errors import EngineFailed, EngineTimeout, NoReadyInstance
from services.inference.domain.output import Embedded, Piece

# Rows of one embedding request: `max_batch_size` of the embedding engines.
EMBED_ROWS_MAX = 64

_MESSAGE_BYTES_MAX = 64 * 1024 * 1024
# How long the end of a stream is waited for that said no.
_READ_OUT_S_MAX = 1.0
# How long the channel of an instance that nobody calls stays open.
_CHANNEL_UNUSED_S_MAX = 600.0
# Reasons an engine gives when it stops an answer before its end, as it does when it is unloaded.
BROKEN_OFF = frozenset({"cancelled", "abort"})
_LENGTH = struct.Struct("<I")


@dataclass(slots=True)
class _Channel:
    """To one instance, with what every call of it carries."""

    channel: grpc.aio.Channel
    stub: Any
    metadata: tuple[tuple[str, str], ...]
    used_at: float = 0.0


class TritonBackend:
    """All instances, one channel each, with the calls in flight counted.

    Args:
        cluster_secret: Every instance's secret is derived from it; nothing travels that could be overheard.
        token_timeout_s: Longest wait for the next response of a stream.
    """

    def __init__(self, cluster_secret: bytes, *, token_timeout_s: float) -> None:
        self._cluster_secret = cluster_secret
        self._token_timeout_s = token_timeout_s
        self._channels: dict[tuple[str, str], _Channel] = {}
        self._in_flight: Counter[str] = Counter()
        self._turn = 0
        self._closing: list[asyncio.Future[None]] = []

    def choose(self, targets: Sequence[routes_pb2.RouteTarget], avoid: str = "") -> routes_pb2.RouteTarget:
        """The least loaded instance, another than `avoid` where there is one."""
        if len(targets) == 1:
            return targets[0]
        by_uid = {target.instance_uid: target for target in targets if target.instance_uid != avoid}
        if not by_uid:
            by_uid = {target.instance_uid: target for target in targets}
        self._turn += 1
        return by_uid[choose_least_loaded(sorted(by_uid), self._in_flight, self._turn)]

    @contextmanager
    def in_flight(self, target: routes_pb2.RouteTarget) -> Iterator[None]:
        """Count a call while it runs."""
        self._in_flight[target.instance_uid] += 1
        try:
            yield
        finally:
            self._in_flight[target.instance_uid] -= 1
            if not self._in_flight[target.instance_uid]:
                del self._in_flight[target.instance_uid]

    async def generate(
        self, target: routes_pb2.RouteTarget, request_id: str, prompt: str, sampling: Mapping[str, object]
    ) -> AsyncGenerator[Piece, None]:
        """Stream an answer. Closing the iterator cancels the work.

        Raises:
            NothingRead: not reached, nothing happened.
            PromptTooLong, RequestInvalid, EngineBusy: refused before it was read.
            EngineFailed, EngineTimeout: it broke on the way; an answer without a reason for its end did, too.
        """
        request = service_pb2.ModelInferRequest(model_name=target.model_name, id=request_id)
        add_bytes(request, "text_input", [prompt.encode()], [1])
        add_bytes(request, "sampling_parameters", [json.dumps(sampling).encode()], [1])
        for flag in (
            "stream",
            "exclude_input_in_output",
            "return_finish_reason",
            "return_num_input_tokens",
            "return_num_output_tokens",
        ):
            add_tensor(request, flag, "BOOL", [1], b"\x01")
        finished = False
        async with aclosing(self.raw_stream(target, request)) as responses:
            async for response in responses:
                outputs = named_outputs(response)
                reason = read_bytes(outputs.get("finish_reason", b"")).decode()
                if reason in BROKEN_OFF:
                    break
                finished = finished or reason not in ("", "None")
                yield Piece(
                    text=read_bytes(outputs.get("text_output", b"")).decode("utf-8", errors="replace"),
                    input_tokens=int.from_bytes(outputs.get("num_input_tokens", b""), "little"),
                    output_tokens=int.from_bytes(outputs.get("num_output_tokens", b""), "little"),
                    finish_reason="" if reason == "None" else reason,
                )
        if not finished:
            raise EngineFailed("the instance ended the call before its answer; try again", retry_after_s=1.0)

    async def embed(self, target: routes_pb2.RouteTarget, request_id: str, texts: Sequence[str]) -> Embedded:
        """Embed at most EMBED_ROWS_MAX texts, one row a text, order kept.

        Raises:
            As `generate`.
        """
        request = service_pb2.ModelInferRequest(model_name=target.model_name, id=request_id)
        add_bytes(request, "TEXT", [text.encode() for text in texts], [len(texts), 1])
        response = await self.raw_infer(target, request, timeout_s=self._token_timeout_s)
        outputs = named_outputs(response)
        vectors, counts = outputs["EMBEDDING"], outputs["NUM_INPUT_TOKENS"]
        width = len(vectors) // len(texts)
        return Embedded(
            rows=[vectors[start : start + width] for start in range(0, len(vectors), width)],
            input_tokens=sum_of(counts, 4),
        )

    async def raw_infer(
        self, target: routes_pb2.RouteTarget, request: service_pb2.ModelInferRequest, *, timeout_s: float
    ) -> service_pb2.ModelInferResponse:
        """One request, one response, within `timeout_s` and within what an instance may take for any response."""
        with _engine_span("ModelInfer", target):
            stub, metadata = self._stub(target)
            try:
                return await stub.ModelInfer(request, metadata=metadata, timeout=min(timeout_s, self._token_timeout_s))
            except grpc.aio.AioRpcError as error:
                raise problem_of(error) from error

    async def raw_stream(
        self, target: routes_pb2.RouteTarget, request: service_pb2.ModelInferRequest
    ) -> AsyncGenerator[service_pb2.ModelInferResponse, None]:
        """One request, as many responses as it has. Closing the iterator cancels the work."""
        with _engine_span("ModelStreamInfer", target):
            stub, metadata = self._stub(target)
            call = stub.ModelStreamInfer(metadata=metadata)
            try:
                await call.write(request)
                await call.done_writing()
                while True:
                    async with asyncio.timeout(self._token_timeout_s):
                        message = await call.read()
                    if message is grpc.aio.EOF:
                        return
                    if message.error_message:
                        await _read_out(call)
                        raise refusal(message.error_message)
                    yield message.infer_response
            except TimeoutError:
                raise EngineTimeout(
                    f"the instance said nothing for {self._token_timeout_s:g} s; what was delivered is billed, try again"
                ) from None
            except grpc.aio.AioRpcError as error:
                raise problem_of(error) from error
            except asyncio.InvalidStateError as error:
                raise problem_of_code(await call.code(), await call.details()) from error
            finally:
                call.cancel()

    async def ask(self, target: routes_pb2.RouteTarget, method: str, request: Any) -> Any:
        """A metadata method of the Open Inference Protocol.

        Raises:
            NoReadyInstance: not reached.
            EngineFailed, EngineTimeout: it did not answer.
        """
        stub, metadata = self._stub(target)
        try:
            return await getattr(stub, method)(request, metadata=metadata, timeout=self._token_timeout_s)
        except grpc.aio.AioRpcError as error:
            problem = problem_of(error)
            if isinstance(problem, NothingRead):
                problem = NoReadyInstance("the instance could not be reached; try again", retry_after_s=1.0)
            raise problem from error

    def _stub(self, target: routes_pb2.RouteTarget) -> tuple[Any, tuple[tuple[str, str], ...]]:
        key = (target.instance_uid, target.address)
        known = self._channels.get(key)
        if known is None:
            self._close_unused(target.instance_uid)
            known = self._channels[key] = self._open(target)
        known.used_at = monotonic()
        parent = traceparent()
        return known.stub, (*known.metadata, ("traceparent", parent)) if parent else known.metadata

    def _open(self, target: routes_pb2.RouteTarget) -> _Channel:
        channel = grpc.aio.insecure_channel(
            target.address,
            options=[
                ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
            ],
        )
        secret = instance_secret(self._cluster_secret, target.instance_uid)
        return _Channel(
            channel, service_pb2_grpc.GRPCInferenceServiceStub(channel), ((INSTANCE_SECRET_HEADER, secret),)
        )

    def _close_unused(self, moved_uid: str) -> None:
        """Channels of instances that are gone, and those of one that moved: a restarted Triton has another port."""
        too_old = monotonic() - _CHANNEL_UNUSED_S_MAX
        self._closing = [closing for closing in self._closing if not closing.done()]
        for key, known in list(self._channels.items()):
            unused = known.used_at < too_old and key[0] not in self._in_flight
            if unused or key[0] == moved_uid:
                del self._channels[key]
                self._closing.append(asyncio.ensure_future(known.channel.close()))

    async def close(self) -> None:
        """Close every channel."""
        for known in self._channels.values():
            await known.channel.close()
        await asyncio.gather(*self._closing)


def _engine_span(method: str, target: routes_pb2.RouteTarget) -> AbstractContextManager[None]:
    return span(
        f"inference.GRPCInferenceService/{method}",
        {"rpc.system": "grpc", "rpc.method": method, "modelyard.instance.uid": target.instance_uid},
        kind=SpanKind.CLIENT,
    )


async def _read_out(call: Any) -> None:
    """Let a stream that was refused end by itself, which it does at once.

    Triton forgets to count a request that is cancelled in the moment of its end, and then waits for it when it stops.
    """
    with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
        async with asyncio.timeout(_READ_OUT_S_MAX):
            while await call.read() is not grpc.aio.EOF:
                pass


def add_tensor(
    request: service_pb2.ModelInferRequest, name: str, datatype: str, shape: Sequence[int], content: bytes
) -> None:
    """Append an input with its raw content."""
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.append(content)


def add_bytes(request: service_pb2.ModelInferRequest, name: str, values: Sequence[bytes], shape: Sequence[int]) -> None:
    """Append a BYTES input: each element is its length and its bytes."""
    add_tensor(request, name, "BYTES", shape, b"".join(_LENGTH.pack(len(value)) + value for value in values))


def named_outputs(response: service_pb2.ModelInferResponse) -> dict[str, bytes]:
    """Raw contents by output name."""
    return {
        output.name: content for output, content in zip(response.outputs, response.raw_output_contents, strict=False)
    }


def read_bytes(content: bytes) -> bytes:
    """The first element of a BYTES tensor."""
    if len(content) < _LENGTH.size:
        return b""
    return content[_LENGTH.size : _LENGTH.size + _LENGTH.unpack_from(content)[0]]


def read_all_bytes(content: bytes) -> list[bytes]:
    """Every element of a BYTES tensor."""
    elements, at = [], 0
    while at + _LENGTH.size <= len(content):
        end = at + _LENGTH.size + _LENGTH.unpack_from(content, at)[0]
        if end > len(content):
            break
        elements.append(content[at + _LENGTH.size : end])
        at = end
    return elements


def sum_of(content: bytes, width: int) -> int:
    """The sum of a tensor of counts, `width` bytes each."""
    return sum(int.from_bytes(content[at : at + width], "little") for at in range(0, len(content), width))
