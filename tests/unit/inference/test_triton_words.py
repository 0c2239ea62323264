"""What an instance says, understood and never passed on as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from services.inference.backends.triton import (
    TritonBackend,
    add_bytes,
    named_outputs,
    read_all_bytes,
    read_bytes,
    sum_of,
)
from services.inference.backends.words import NothingRead, problem_of_code, refusal
from services.inference.domain.errors import (
    EngineBusy,
    EngineFailed,
    EngineTimeout,
    MediaInvalid,
    MediaTooLarge,
    PromptTooLong,
    RequestInvalid,
)
from services.inference.domain.output import Piece
from tests.unit.inference.build import a_deployment


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        ("x PROMPT_TOO_LONG prompt_tokens=701 context_tokens=512", PromptTooLong, "701 tokens .* holds 512; shorten"),
        ("ENGINE_BUSY waiting=8 waiting_max=8", EngineBusy, "8 calls wait at the instance; 8 are allowed"),
        ("INVALID_PARAMETER name=stop allowed=texts", RequestInvalid, "stop is not taken by the model; allowed: texts"),
        ("PROMPT_EMPTY", RequestInvalid, "the prompt is not taken"),
        ("AUDIO_UNREADABLE allowed=wav,flac", MediaInvalid, "no audio that can be read; wav,flac are taken"),
        ("AUDIO_TOO_SHORT milliseconds=9 milliseconds_min=100", MediaInvalid, "9 ms long; at least 100 ms"),
        ("AUDIO_TOO_LONG seconds_max=600", MediaTooLarge, "longer than 600 s, the most the model takes; send parts"),
        ("IMAGE_UNREADABLE item=2 allowed=PNG", MediaInvalid, "image 2 is none that can be read; PNG are taken"),
        ("IMAGE_TOO_LARGE item=0 pixels=9 pixels_max=4", MediaTooLarge, "image 0 has 9 pixels .* at most 4"),
        ("AUDIO_TOO_LONG", MediaTooLarge, "longer than [?] s"),
        ("ENGINE_FAILED type=RuntimeError", EngineFailed, "the instance broke while it answered"),
        ("Traceback: the prompt was 'a secret'", EngineFailed, "the instance broke while it answered"),
    ],
)
def test_an_engines_refusal_is_said_in_our_words(said: str, kind: type[Exception], message: str) -> None:
    problem = refusal(said)
    assert type(problem) is kind
    with pytest.raises(kind, match=message):
        raise problem
    assert "secret" not in str(problem)


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, "last error: Failed to connect to remote host", NothingRead),
        (grpc.StatusCode.UNAVAILABLE, "Request for unknown model: 'model' has no available versions", NothingRead),
        (grpc.StatusCode.UNAVAILABLE, "Server not ready", NothingRead),
        (grpc.StatusCode.INTERNAL, "ENGINE_FAILED Server not ready", EngineFailed),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", EngineFailed),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", EngineTimeout),
        (grpc.StatusCode.INTERNAL, None, EngineFailed),
    ],
)
def test_only_an_instance_that_did_not_take_the_call_may_be_replaced(
    code: grpc.StatusCode, details: str | None, kind: type[Exception]
) -> None:
    """Whatever else happened, it may have read the prompt."""
    assert type(problem_of_code(code, details)) is kind


def test_bytes_tensors_round_trip() -> None:
    request = service_pb2.ModelInferRequest()
    add_bytes(request, "TEXT", [b"one", b""], [2, 1])
    assert read_bytes(request.raw_input_contents[0]) == b"one"
    assert (read_bytes(b""), read_bytes(b"\0\0")) == (b"", b"")


def test_every_element_of_a_tensor_is_read() -> None:
    """Also where its content was cut: what is not whole is left out."""
    request = service_pb2.ModelInferRequest()
    add_bytes(request, "TEXT", [b"one", b"", b"three"], [3, 1])
    content = request.raw_input_contents[0]
    assert read_all_bytes(content) == [b"one", b"", b"three"]
    assert read_all_bytes(content[:10]) == [b"one"]
    assert sum_of((1).to_bytes(8, "little") + (500).to_bytes(8, "little"), 8) == 501


class RefusingInstance(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Says no and ends the stream a moment later, as Triton does; notes whether it was left before."""

    def __init__(self) -> None:
        self.ended = False

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncGenerator[Any, None]:
        async for _ in requests:
            yield service_pb2.ModelStreamInferResponse(error_message="ENGINE_BUSY waiting=8 waiting_max=8")
        await asyncio.sleep(0.05)
        self.ended = True


async def test_a_stream_that_was_refused_is_read_to_its_end() -> None:
    """Triton waits for ever for a request that is cancelled in the moment of its end."""
    instance, server = RefusingInstance(), grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(instance, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    backend = TritonBackend(b"a secret of tests alone", token_timeout_s=5)
    (target,) = a_deployment().targets
    target.address = f"127.0.0.1:{port}"
    try:
        with pytest.raises(EngineBusy):
            await anext(backend.raw_stream(target, service_pb2.ModelInferRequest()))
        assert instance.ended
    finally:
        await backend.close()
        await server.stop(0)


def test_outputs_are_found_by_name() -> None:
    response = service_pb2.ModelInferResponse(raw_output_contents=[b"a", b"b"])
    response.outputs.add(name="x")
    response.outputs.add(name="y")
    assert named_outputs(response) == {"x": b"a", "y": b"b"}


def test_another_instance_is_chosen_where_there_is_one() -> None:
    backend = TritonBackend(b"a secret of tests alone", token_timeout_s=1)
    (target,) = a_deployment().targets
    other = type(target)(instance_uid="other", address="127.0.0.1:2")
    assert backend.choose([target, other], avoid="instance").instance_uid == "other"
    assert backend.choose([target], avoid="instance").instance_uid == "instance"


def test_the_least_loaded_instance_takes_the_call() -> None:
    backend = TritonBackend(b"a secret of tests alone", token_timeout_s=1)
    (target,) = a_deployment().targets
    other = type(target)(instance_uid="other", address="127.0.0.1:2")
    with backend.in_flight(target):
        assert {backend.choose([target, other]).instance_uid for _ in range(4)} == {"other"}
    assert {backend.choose([target, other]).instance_uid for _ in range(4)} == {"other", "instance"}


class ScriptedStream(TritonBackend):
    """An instance whose stream is these responses: (text, output tokens, finish reason)."""

    def __init__(self, *responses: tuple[str, int, str]) -> None:
        super().__init__(b"a secret of tests alone", token_timeout_s=1)
        self._responses = responses

    async def raw_stream(self, *_: Any) -> AsyncGenerator[service_pb2.ModelInferResponse, None]:
        for text, tokens, reason in self._responses:
            response = service_pb2.ModelInferResponse()
            for name, content in (
                ("text_output", bytes_tensor(text)),
                ("finish_reason", bytes_tensor(reason)),
                ("num_output_tokens", tokens.to_bytes(4, "little")),
            ):
                response.outputs.add(name=name)
                response.raw_output_contents.append(content)
            yield response


def bytes_tensor(text: str) -> bytes:
    return len(text.encode()).to_bytes(4, "little") + text.encode()


async def test_pieces_come_as_the_engine_counts_them() -> None:
    (target,) = a_deployment().targets
    backend = ScriptedStream(("", 0, "None"), ("a", 1, "None"), ("b", 2, "length"))
    pieces = [piece async for piece in backend.generate(target, "id", "prompt", {})]
    assert [(piece.text, piece.output_tokens, piece.finish_reason) for piece in pieces] == [
        ("", 0, ""),
        ("a", 1, ""),
        ("b", 2, "length"),
    ]


@pytest.mark.parametrize("last", [[], [("", 3, "cancelled")], [("", 3, "abort")]], ids=["eof", "cancelled", "abort"])
async def test_an_answer_that_an_engine_breaks_off_is_no_whole_one(last: list[tuple[str, int, str]]) -> None:
    """As when it is unloaded: the tokens it tells of then never left, so they are not counted."""
    (target,) = a_deployment().targets
    backend = ScriptedStream(("a", 1, "None"), *last)
    told: list[Piece] = []
    with pytest.raises(EngineFailed, match="ended the call before its answer"):
        await _collect(backend.generate(target, "id", "prompt", {}), told)
    assert [piece.output_tokens for piece in told] == [1]


async def _collect(pieces: AsyncGenerator[Piece, None], told: list[Piece]) -> None:
    async for piece in pieces:
        told.append(piece)
