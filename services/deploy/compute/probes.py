"""Canary inferences: the smallest request that only a working engine answers, through the engine's own contract."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

# Engines know their canary by this id: a busy one may answer it without work of its own, and token logs leave it out.
CANARY_ID = "modelyard-canary"
# Goes before every other request in the queues of engines that have one in Triton.
_PRIORITY = 1
# One white pixel.
_DOT_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mP4DwABAQEAHLCMmQAAAABJRU5ErkJggg=="
)
# Bytes of one item of Triton's types; those of BYTES say their own length.
_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "UINT8", "INT8"), 1),
    **dict.fromkeys(("UINT16", "INT16", "FP16"), 2),
    **dict.fromkeys(("UINT32", "INT32", "FP32"), 4),
    **dict.fromkeys(("UINT64", "INT64", "FP64"), 8),
}

Metadata = Sequence[tuple[str, str]]


class ProbeFailed(Exception):
    """The engine did not answer its canary, or answered what it must not."""


async def probe(
    stub: Any, engine: str, model_name: str, parameters: Mapping[str, str], *, metadata: Metadata, timeout_s: float
) -> None:
    """Ask an engine one small question.

    Args:
        stub: `GRPCInferenceServiceStub` on a grpc.aio channel.
        engine: Whose contract to use.
        model_name: Model as Triton knows it.
        parameters: The engine's; they say which tensors a model of the tensors engine takes.
        metadata: Opens the instance.
        timeout_s: For the whole answer.

    Raises:
        ProbeFailed: no answer in time, an error, or a wrong answer.
    """
    try:
        if engine == "tensors":
            await _ask_tensors_engine(stub, model_name, parameters, metadata, timeout_s)
        else:
            await _QUESTIONS[engine](stub, model_name, metadata, timeout_s)
    except grpc.aio.AioRpcError as error:
        raise ProbeFailed(f"the canary ended with {error.code().name}: {error.details()}") from error


async def _ask_text_engine(stub: Any, model_name: str, metadata: Metadata, timeout_s: float) -> None:
    request = _request(model_name)
    _add(request, "text_input", "BYTES", [1], _bytes_element(b"Hello"))
    _add(request, "stream", "BOOL", [1], b"\x01")
    _add(request, "sampling_parameters", "BYTES", [1], _bytes_element(json.dumps({"max_tokens": 1}).encode()))
    for name in ("return_finish_reason", "return_num_input_tokens", "return_num_output_tokens"):
        _add(request, name, "BOOL", [1], b"\x01")
    output_tokens = 0
    async for answer in _streamed(stub, request, metadata, timeout_s):
        if answer.get("finish_reason", b"").endswith(b"busy"):
            return
        if not int.from_bytes(answer.get("num_input_tokens", b""), "little"):
            raise ProbeFailed("the canary's answer says no number of input tokens")
        output_tokens += int.from_bytes(answer.get("num_output_tokens", b""), "little")
    if output_tokens != 1:
        raise ProbeFailed(f"the canary asked for 1 token and got {output_tokens}")


async def _ask_embedding_engine(stub: Any, model_name: str, metadata: Metadata, timeout_s: float) -> None:
    request = _request(model_name)
    request.parameters["priority"].uint64_param = _PRIORITY
    _add(request, "TEXT", "BYTES", [1, 1], _bytes_element(b"Hello"))
    answer = _outputs(await stub.ModelInfer(request, metadata=metadata, timeout=timeout_s))
    embedding = struct.unpack(f"<{len(answer['EMBEDDING']) // 4}f", answer["EMBEDDING"])
    length = sum(value * value for value in embedding) ** 0.5
    if not abs(length - 1) < 1e-3:
        raise ProbeFailed(f"the canary's embedding has length {length:.4f} instead of 1")


async def _ask_speech_engine(stub: Any, model_name: str, metadata: Metadata, timeout_s: float) -> None:
    request = _request(model_name)
    # The engine looks at a second of its own silence.
    _add(request, "AUDIO", "BYTES", [1], _bytes_element(b""))
    reasons = [answer.get("FINISH_REASON", b"") async for answer in _streamed(stub, request, metadata, timeout_s)]
    if not reasons or not reasons[-1].endswith((b"stop", b"busy")):
        raise ProbeFailed("the canary's answer has no end")


async def _ask_image_engine(stub: Any, model_name: str, metadata: Metadata, timeout_s: float) -> None:
    request = _request(model_name)
    request.parameters["priority"].uint64_param = _PRIORITY
    _add(request, "IMAGE", "BYTES", [1, 1], _bytes_element(_DOT_PNG))
    answer = _outputs(await stub.ModelInfer(request, metadata=metadata, timeout=timeout_s))
    scores = struct.unpack(f"<{len(answer['SCORE']) // 4}f", answer["SCORE"])
    if not scores or not all(0 <= score <= 1 for score in scores):
        raise ProbeFailed(f"the canary's image has {len(scores)} scores, not all of them from 0 to 1")


async def _ask_noop(stub: Any, model_name: str, metadata: Metadata, timeout_s: float) -> None:
    request = _request(model_name)
    _add(request, "INPUT", "BYTES", [1], _bytes_element(b"Hello"))
    answer = _outputs(await stub.ModelInfer(request, metadata=metadata, timeout=timeout_s))
    if answer["OUTPUT"] != _bytes_element(b"Hello"):
        raise ProbeFailed("the canary came back changed")


async def _streamed(stub: Any, request: Any, metadata: Metadata, timeout_s: float) -> AsyncIterator[dict[str, bytes]]:
    """The outputs of each response."""
    call = stub.ModelStreamInfer(metadata=metadata, timeout=timeout_s)
    await call.write(request)
    await call.done_writing()
    async for message in call:
        if message.error_message:
            raise ProbeFailed(f"the canary ended with: {message.error_message}")
        yield _outputs(message.infer_response)


async def _ask_tensors_engine(
    stub: Any, model_name: str, parameters: Mapping[str, str], metadata: Metadata, timeout_s: float
) -> None:
    """Zeros, one where a length is free."""
    request = _request(model_name)
    is_batched = int(parameters.get("max_batch_size", "0")) > 0
    for tensor in json.loads(parameters["inputs"]):
        shape = [1] * is_batched + [max(length, 1) for length in tensor["dims"] or [1]]
        element = _bytes_element(b"") if tensor["type"] == "BYTES" else bytes(_ITEM_BYTES[tensor["type"]])
        _add(request, tensor["name"], tensor["type"], shape, element * math.prod(shape))
    answer = _outputs(await stub.ModelInfer(request, metadata=metadata, timeout=timeout_s))
    missing = {tensor["name"] for tensor in json.loads(parameters["outputs"])} - answer.keys()
    if missing:
        raise ProbeFailed(f"the canary's answer has no {sorted(missing)[0]!r}")


_QUESTIONS = {
    "llamacpp": _ask_text_engine,
    "onnx": _ask_embedding_engine,
    "safetensors": _ask_embedding_engine,
    "wordvectors": _ask_embedding_engine,
    "whisper": _ask_speech_engine,
    "images": _ask_image_engine,
    "noop": _ask_noop,
}


def _request(model_name: str) -> Any:
    return service_pb2.ModelInferRequest(model_name=model_name, id=CANARY_ID)


def _add(request: Any, name: str, datatype: str, shape: list[int], content: bytes) -> None:
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.append(content)


def _bytes_element(content: bytes) -> bytes:
    """One element of a BYTES tensor: length, little-endian, then the content."""
    return struct.pack("<I", len(content)) + content


def _outputs(response: Any) -> dict[str, bytes]:
    names = [output.name for output in response.outputs]
    return dict(zip(names, response.raw_output_contents, strict=True))
