"""The OpenAI API with the unmodified `openai` client, on real engines."""

from __future__ import annotations

import base64
import json
import struct
from collections import Counter
from typing import Any

import openai
import pytest

from chassis.ids import new_uid
from tests.infra.data_path import DIMENSIONS, DataPath, a_deployment, token_log_line
from tests.infra.instances import wait_until
from tests.integration.inference.conftest import CHAT, Instances

GRAVITY: list[Any] = [{"role": "user", "content": "What is gravity?"}]
INPUT_TOKENS = 13
# An answer that goes on until the context is full.
ENDLESS: dict[str, Any] = {"model": "chat", "messages": GRAVITY, "stream": True, "temperature": 1.5, "seed": 3}


async def test_a_streamed_answer_ends_with_its_usage(
    client: openai.AsyncOpenAI, data_path: DataPath, instances: Instances
) -> None:
    """Without asking for it; and the client, the record and the engine's own log agree."""
    request_id = new_uid()
    stream = await client.chat.completions.create(
        model="chat",
        messages=GRAVITY,
        max_tokens=6,
        temperature=0,
        stream=True,
        extra_headers={"x-request-id": request_id},
    )
    chunks = [chunk async for chunk in stream]
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (INPUT_TOKENS, 6, INPUT_TOKENS + 6)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[0].choices[0].delta.role == "assistant"
    billed = await data_path.billed(request_id)
    assert (billed.outcome, billed.tokens()) == ("COMPLETED", (INPUT_TOKENS, 6))
    assert chunks[0].id == f"chatcmpl-{billed.record.id}"
    line = await token_log_line(instances.text, billed.record.id)
    assert (line["input_tokens"], line["output_tokens"]) == (INPUT_TOKENS, 6)


async def test_a_whole_answer_is_the_streamed_one(client: openai.AsyncOpenAI, instances: Instances) -> None:
    asked: dict[str, Any] = {"model": "chat", "messages": GRAVITY, "max_tokens": 6, "temperature": 0}
    stream = await client.chat.completions.create(**asked, stream=True)
    streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    raw = await client.chat.completions.with_raw_response.create(**asked)
    answer = raw.parse()
    assert answer.choices[0].message.content == streamed != ""
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6
    assert raw.headers["x-modelyard-instance"] == instances.text.instance_uid


async def test_a_conversation_goes_on_with_the_answer_as_it_came(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="chat", messages=GRAVITY, max_tokens=2)
    again = [*GRAVITY, answer.choices[0].message, {"role": "user", "content": "Why?"}]
    assert (await client.chat.completions.create(model="chat", messages=again, max_tokens=1)).choices


async def test_a_stop_text_ends_the_answer(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "chat", "messages": GRAVITY, "max_tokens": 12, "temperature": 0}
    free = (await client.chat.completions.create(**asked)).choices[0].message.content or ""
    stop = free[5:11]
    stopped = (await client.chat.completions.create(**asked, stop=stop)).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (free[: free.index(stop)], "stop")


async def test_a_deployment_can_be_named(client: openai.AsyncOpenAI, data_path: DataPath) -> None:
    """Also one that takes no traffic."""
    request_id = new_uid()
    await client.chat.completions.create(
        model="chat/idle", messages=GRAVITY, max_tokens=1, extra_headers={"x-request-id": request_id}
    )
    assert (await data_path.billed(request_id)).tokens()[1] == 1


async def test_embeddings_as_floats_and_as_base64_are_the_same(client: openai.AsyncOpenAI) -> None:
    texts = ["gravity", "a cat sat on the mat"]
    floats = await client.embeddings.create(model="vectors", input=texts, encoding_format="float")
    raw = await client.embeddings.with_raw_response.create(model="vectors", input=texts, encoding_format="base64")
    encoded = [base64.b64decode(one["embedding"]) for one in json.loads(raw.text)["data"]]
    decoded = [list(struct.unpack(f"<{DIMENSIONS}f", row)) for row in encoded]
    assert [one.embedding for one in floats.data] == decoded
    assert sum(value * value for value in decoded[0]) == pytest.approx(1, abs=1e-4)


async def test_more_texts_than_the_engine_takes_at_once_are_one_call(
    client: openai.AsyncOpenAI, data_path: DataPath
) -> None:
    """In order, and billed together."""
    texts = [f"number {n}" for n in range(70)]
    request_id = new_uid()
    many = await client.embeddings.create(model="vectors", input=texts, extra_headers={"x-request-id": request_id})
    last = await client.embeddings.create(model="vectors", input=texts[69])
    assert len(many.data) == 70
    assert many.data[69].embedding == last.data[0].embedding
    assert (await data_path.billed(request_id)).tokens() == (many.usage.prompt_tokens, 0)


async def test_the_models_are_exactly_what_the_key_may_call(
    client: openai.AsyncOpenAI, data_path: DataPath, instances: Instances
) -> None:
    """Of its project: each endpoint with traffic, and each deployment; in order."""
    project_uid, text = new_uid(), instances.text
    await data_path.put_route(
        "talk",
        a_deployment("blue", text, CHAT),
        a_deployment("green", text, CHAT, 0),
        project_uid=project_uid,
        project="models",
    )
    await data_path.put_route("quiet", a_deployment("blue", text, CHAT, 0), project_uid=project_uid, project="models")
    mine = client.with_options(api_key=await data_path.put_key(project_uid=project_uid))
    models = [model async for model in await mine.models.list()]
    assert [model.id for model in models] == ["quiet/blue", "talk", "talk/blue", "talk/green"]
    assert {(model.object, model.owned_by, model.created) for model in models} == {("model", "models", 1_700_000_000)}
    assert await mine.models.retrieve("talk/green") == models[3]
    with pytest.raises(openai.NotFoundError):
        await mine.models.retrieve("chat")


async def test_a_key_of_some_endpoints_calls_no_other(data_path: DataPath, client: openai.AsyncOpenAI) -> None:
    route = await data_path.put_route("scoped")
    narrow = client.with_options(api_key=await data_path.put_key(endpoint_uids=[route.endpoint_uid]))
    assert [model.id async for model in await narrow.models.list()] == []
    with pytest.raises(openai.NotFoundError):
        await narrow.embeddings.create(model="vectors", input="x")


async def test_traffic_is_spread_by_weight(client: openai.AsyncOpenAI, data_path: DataPath) -> None:
    """75 to 25: of 120 calls within five standard deviations."""
    prefix = new_uid()[:18]
    for n in range(120):
        await client.embeddings.create(model="split", input="x", extra_headers={"x-request-id": f"{prefix}-{n}"})
    taken = Counter(
        one.record.deployment_uid for one in data_path.records() if one.record.request_id.startswith(f"{prefix}-")
    )
    most, least = sorted(taken.values(), reverse=True)
    assert most + least == 120
    assert 66 <= most <= 114


# Clients that leave


async def test_a_client_that_hangs_up_ends_the_work_and_pays_for_what_was_processed(
    client: openai.AsyncOpenAI, data_path: DataPath, instances: Instances
) -> None:
    request_id = new_uid()
    stream = await client.chat.completions.create(**ENDLESS, extra_headers={"x-request-id": request_id})
    seen = 0
    async for _ in stream:
        seen += 1
        if seen == 4:
            break
    await stream.close()
    billed = await data_path.billed(request_id)
    line = await token_log_line(instances.text, billed.record.id)
    assert (billed.outcome, line["end"]) == ("CANCELLED", "cancelled")
    assert billed.tokens()[0] == INPUT_TOKENS
    assert 4 <= billed.tokens()[1] <= line["output_tokens"] < 450


async def test_a_client_that_hangs_up_without_streaming_ends_the_work_too(
    client: openai.AsyncOpenAI, data_path: DataPath, instances: Instances
) -> None:
    request_id = new_uid()
    with pytest.raises(openai.APITimeoutError):
        await client.with_options(timeout=1.5).chat.completions.create(
            **{**ENDLESS, "stream": False}, extra_headers={"x-request-id": request_id}
        )
    billed = await data_path.billed(request_id)
    line = await token_log_line(instances.text, billed.record.id)
    assert (billed.outcome, line["end"]) == ("CANCELLED", "cancelled")
    assert 0 < billed.tokens()[1] <= line["output_tokens"] < 450


# The door


async def test_health_needs_no_key(data_path: DataPath) -> None:
    assert (await data_path.send("GET", "/healthz")).json() == {"status": "ok", "why": ""}


async def test_the_page_says_what_does_not_answer(data_path: DataPath) -> None:
    """Neither the catalog nor billing is there in these tests; GET and HEAD answer all the same."""
    page = await data_path.send("GET", "/")
    assert b"The catalog does not answer now" in page.body
    assert "default-src 'none'" in page.headers["content-security-policy"]
    head = await data_path.send("HEAD", "/")
    assert (head.status, head.body) == (200, b"")


async def test_a_new_key_works_at_once_and_a_revoked_one_within_a_second(
    data_path: DataPath, client: openai.AsyncOpenAI
) -> None:
    credential = await data_path.put_key()
    mine = client.with_options(api_key=credential)
    await mine.models.list()
    await data_path.revoke(credential)

    async def refused() -> bool:
        try:
            await mine.models.list()
        except openai.AuthenticationError:
            return True
        return False

    await wait_until(refused, timeout_s=1)
