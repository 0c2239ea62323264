"""While a version has an end, every answer of it says so: `Deprecation` and `Sunset` over REST, and over gRPC."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.inference.v1 import inference_pb2, inference_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.infra.data_path import DataPath, a_deployment
from tests.integration.inference.conftest import CHAT, EMBED, Instances

# 2035-01-01 and 2035-04-01, 00:00 UTC.
DATES = {"deprecation_time": Timestamp(seconds=2_051_222_400), "retire_time": Timestamp(seconds=2_058_998_400)}
TOLD = {"deprecation": "@2051222400", "sunset": "Sun, 01 Apr 2035 00:00:00 GMT"}
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest_asyncio.fixture(scope="module", autouse=True)
async def ending(data_path: DataPath, instances: Instances) -> None:
    """Endpoints whose versions end; one of them has ended."""
    await data_path.put_route("ending", a_deployment("main", instances.text, CHAT, **DATES))
    await data_path.put_route("ending-vectors", a_deployment("main", instances.vectors, EMBED, **DATES))
    await data_path.put_route(
        "ending-echo", a_deployment("main", instances.echo, 0, tasks=[], **DATES), serverless=False
    )
    past = {"deprecation_time": Timestamp(seconds=900_000_000), "retire_time": Timestamp(seconds=1_000_000_000)}
    await data_path.put_route("ended", a_deployment("main", instances.text, CHAT, **past))


def told(headers: Any) -> dict[str, str]:
    """What headers or metadata say of dates."""
    return {name: value for name, value in dict(headers).items() if name in ("deprecation", "sunset")}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/chat/completions", {"model": "ending", "messages": MESSAGES, "max_tokens": 1}),
        ("POST", "/v1/chat/completions", {"model": "ending", "messages": MESSAGES, "max_tokens": 1, "stream": True}),
        ("POST", "/v1/embeddings", {"model": "ending-vectors", "input": "hi"}),
        ("GET", "/v1/models/ending", None),
    ],
)
async def test_rest_answers_tell_both_dates(
    data_path: DataPath, key: str, method: str, path: str, body: dict[str, Any] | None
) -> None:
    """As RFC 9745 and RFC 8594 write them, whole or streamed."""
    answer = await data_path.send(method, path, json.dumps(body).encode() if body else b"", key=key)
    assert (answer.status, told(answer.headers)) == (200, TOLD)


async def test_refusals_tell_them_too(data_path: DataPath, key: str) -> None:
    """Also the one that says it is over."""
    wrong = await data_path.send("POST", "/v1/embeddings", b'{"model": "ending", "input": "hi"}', key=key)
    over = await data_path.send(
        "POST", "/v1/chat/completions", json.dumps({"model": "ended", "messages": MESSAGES}).encode(), key=key
    )
    assert (wrong.status, told(wrong.headers)) == (404, TOLD)
    assert (over.status, told(over.headers)) == (
        410,
        {"deprecation": "@900000000", "sunset": "Sun, 09 Sep 2001 01:46:40 GMT"},
    )


async def test_without_a_date_nothing_is_told(data_path: DataPath, key: str) -> None:
    """Nor after a call that had one, on the same connection or not."""
    answer = await data_path.send("POST", "/v1/embeddings", b'{"model": "vectors", "input": "hi"}', key=key)
    assert (answer.status, told(answer.headers)) == (200, {})


async def test_grpc_answers_tell_both_dates(channel: grpc.aio.Channel, key: str) -> None:
    """In the trailing metadata: of one answer, of a stream, of a raw call, and of a refusal."""
    metadata = (("authorization", f"Bearer {key}"),)
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    message = inference_pb2.ChatMessage(role="user", content="hi")
    one = stub.Embed(inference_pb2.EmbedRequest(model="ending-vectors", inputs=["hi"]), metadata=metadata)
    await one
    stream = stub.ChatCompletion(
        inference_pb2.ChatCompletionRequest(model="ending", messages=[message], max_tokens=1), metadata=metadata
    )
    assert [piece async for piece in stream]
    raw = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelReady(
        service_pb2.ModelReadyRequest(name="ending-echo"), metadata=metadata
    )
    await raw
    assert [told(await call.trailing_metadata()) for call in (one, stream, raw)] == [TOLD] * 3
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Embed(inference_pb2.EmbedRequest(model="ending", inputs=["hi"]), metadata=metadata)
    assert told(refused.value.trailing_metadata()) == TOLD
