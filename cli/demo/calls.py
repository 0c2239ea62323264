"""Calls as users make them: unmodified clients, one base URL, one key."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc as tritonclient
from modelyard.inference.v1 import inference_pb2
from modelyard_client import Modelyard
from openai import AsyncOpenAI

from cli.demo.client_log import Call

RAW_PROMPT = "<|im_start|>user\nName a fruit.<|im_end|>\n<|im_start|>assistant\n"
RAW_TIMEOUT_S = 60.0
# The likeliest words: a model this small wanders when it is let.
TEMPERATURE = 0.0
Show = Callable[[str], None]


async def stream_chat(client: AsyncOpenAI, call: Call, text: str, max_tokens: int, show: Show) -> None:
    """A streamed chat completion over REST; its last chunk carries the usage."""
    stream = await client.chat.completions.create(
        model=call.endpoint,
        messages=[{"role": "user", "content": text}],
        max_tokens=max_tokens,
        temperature=TEMPERATURE,
        stream=True,
        extra_headers={"x-request-id": call.request_id},
    )
    async for chunk in stream:
        if chunk.choices:
            show(chunk.choices[0].delta.content or "")
        if chunk.usage is not None:
            call.answer(
                chunk.usage.prompt_tokens,
                chunk.usage.completion_tokens,
                record_id=chunk.id.removeprefix("chatcmpl-"),
            )


async def ask_chat(client: AsyncOpenAI, call: Call, text: str, max_tokens: int) -> None:
    """A whole chat completion over REST; the response says which instance answered."""
    raw = await client.chat.completions.with_raw_response.create(
        model=call.endpoint,
        messages=[{"role": "user", "content": text}],
        max_tokens=max_tokens,
        temperature=TEMPERATURE,
        extra_headers={"x-request-id": call.request_id},
    )
    answer = raw.parse()
    if answer.usage is not None:
        call.answer(
            answer.usage.prompt_tokens,
            answer.usage.completion_tokens,
            record_id=answer.id.removeprefix("chatcmpl-"),
            instance_uid=raw.headers.get("x-modelyard-instance", ""),
        )


async def stream_chat_grpc(modelyard: Modelyard, call: Call, text: str, max_tokens: int, show: Show) -> None:
    """The same over gRPC."""
    request = inference_pb2.ChatCompletionRequest(
        model=call.endpoint,
        messages=[inference_pb2.ChatMessage(role="user", content=text)],
        max_tokens=max_tokens,
        temperature=TEMPERATURE,
    )
    async for piece in modelyard.inference.ChatCompletion(request, metadata=(("x-request-id", call.request_id),)):
        show(piece.text)
        if piece.HasField("usage"):
            call.answer(piece.usage.input_tokens, piece.usage.output_tokens, record_id=piece.id)


async def embed(client: AsyncOpenAI, call: Call, texts: list[str]) -> list[list[float]]:
    """Embeddings over REST, one vector a text."""
    answer = await client.embeddings.create(
        model=call.endpoint, input=texts, extra_headers={"x-request-id": call.request_id}
    )
    call.answer(answer.usage.prompt_tokens, 0)
    return [one.embedding for one in answer.data]


@dataclass
class RawAnswer:
    """What a raw tensor stream gave back."""

    text: str = ""
    responses: int = 0


def raw_tensors(address: str, key: str, call: Call, max_tokens: int) -> RawAnswer:
    """A raw tensor call by the Open Inference Protocol with NVIDIA's own client; blocks until it has ended."""
    headers = {"authorization": f"Bearer {key}", "x-request-id": call.request_id}
    responses: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client = tritonclient.InferenceServerClient(address)
    try:
        client.start_stream(lambda result, error: responses.put((result, error)), headers=headers)
        client.async_stream_infer(call.endpoint, _raw_inputs(max_tokens), enable_empty_final_response=True)
        return _read_raw(responses, call)
    finally:
        client.stop_stream()
        client.close()


def _raw_inputs(max_tokens: int) -> list[tritonclient.InferInput]:
    def tensor(name: str, datatype: str, values: np.ndarray[Any, Any]) -> tritonclient.InferInput:
        made = tritonclient.InferInput(name, list(values.shape), datatype)
        made.set_data_from_numpy(values)
        return made

    sampling = json.dumps({"max_tokens": max_tokens, "temperature": TEMPERATURE})
    flags = (
        "stream",
        "exclude_input_in_output",
        "return_finish_reason",
        "return_num_input_tokens",
        "return_num_output_tokens",
    )
    return [
        tensor("text_input", "BYTES", np.array([RAW_PROMPT.encode()], dtype=np.object_)),
        tensor("sampling_parameters", "BYTES", np.array([sampling.encode()], dtype=np.object_)),
        *(tensor(flag, "BOOL", np.array([True])) for flag in flags),
    ]


def _read_raw(responses: queue.Queue[tuple[Any, Any]], call: Call) -> RawAnswer:
    answer, read, made = RawAnswer(), 0, 0
    while True:
        result, error = responses.get(timeout=RAW_TIMEOUT_S)
        if error is not None:
            raise error
        text = result.as_numpy("text_output")
        if text is not None:
            answer.responses += 1
            answer.text += text.reshape(-1)[0].decode()
            read = int(result.as_numpy("num_input_tokens").reshape(-1)[0]) or read
            made += int(result.as_numpy("num_output_tokens").reshape(-1)[0])
        final = result.get_response().parameters.get("triton_final_response")
        if final is not None and final.bool_param:
            call.answer(read, made)
            return answer
