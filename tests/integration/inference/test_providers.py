"""Models of external providers: a second Modelyard answers; what it never does when asked, a server of a few lines does."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from modelyard.catalog.v1 import providers_pb2

from chassis.ids import new_uid
from services.inference.backends.provider import ProviderBackend, ProviderLimits
from services.inference.domain.calls import Message, Sampling
from services.inference.domain.errors import ProviderTimeout
from tests.infra.broker import Broker
from tests.infra.data_path import Billed, DataPath, a_deployment, running_data_path
from tests.infra.instances import wait_until
from tests.infra.provider import DONE, a_chunk, a_provider, provider_keys
from tests.integration.inference.conftest import CHAT, EMBED

GRAVITY: list[Any] = [{"role": "user", "content": "What is gravity?"}]
INPUT_TOKENS = 13


@pytest.fixture(scope="session")
def keys_dir(tmp_path_factory: pytest.TempPathFactory, key: str) -> Path:
    """The reseller's keys: the one that it got from the other platform."""
    folder = tmp_path_factory.mktemp("provider-keys")
    write_key(folder, key)
    return folder


@pytest_asyncio.fixture(scope="session")
async def reseller(
    data_path: DataPath, keys_dir: Path, data_path_broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[DataPath]:
    """A platform without instances: its models are endpoints of the other one."""

    def of_the_other(model: str, task: int, **changes: Any) -> Any:
        target = {
            "provider": "upstream",
            "kind": providers_pb2.PROVIDER_KIND_OPENAI,
            "base_url": f"{data_path.rest}/v1",
            "model": model,
            "key_reference": "upstream",
            **changes,
        }
        return a_deployment("main", None, task, provider=providers_pb2.ProviderTarget(**target))

    folder = tmp_path_factory.mktemp("reseller")
    async with running_data_path(data_path_broker, folder, provider_keys_dir=keys_dir) as running:
        await running.put_route("resold", of_the_other("chat", CHAT))
        await running.put_route("counted", of_the_other("chat", CHAT, continuous_usage=True))
        await running.put_route("vectors", of_the_other("vectors", EMBED))
        await running.put_route("missing", of_the_other("no-such-endpoint", CHAT))
        await running.put_route("away", of_the_other("chat", CHAT, base_url="http://127.0.0.1:9/v1"))
        yield running


def write_key(folder: Path, key: str) -> None:
    (folder / "upstream").write_text(key)
    (folder / "upstream").chmod(0o600)


@pytest_asyncio.fixture
async def buyer(reseller: DataPath) -> AsyncIterator[openai.AsyncOpenAI]:
    """The `openai` client, unmodified."""
    key = await reseller.put_key()
    async with openai.AsyncOpenAI(base_url=f"{reseller.rest}/v1", api_key=key, max_retries=0, timeout=60) as made:
        yield made


async def both_bills(reseller: DataPath, data_path: DataPath, request_id: str) -> tuple[Billed, Billed]:
    """What the buyer is billed, and what the reseller is billed for the same call: it asks by its record's id."""
    billed = await reseller.billed(request_id)
    return billed, await data_path.billed(billed.record.id)


async def endless(buyer: openai.AsyncOpenAI, model: str, request_id: str) -> openai.AsyncStream[Any]:
    """An answer that goes on until the context is full."""
    return await buyer.chat.completions.create(
        model=model,
        messages=GRAVITY,
        temperature=1.5,
        seed=3,
        stream=True,
        extra_headers={"x-request-id": request_id},
    )


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_providers_answer_is_billed_by_the_providers_own_usage(
    reseller: DataPath, data_path: DataPath, buyer: openai.AsyncOpenAI, client: openai.AsyncOpenAI, stream: bool
) -> None:
    """And it is the answer that the provider gives to anybody."""
    request_id = new_uid()
    asked: dict[str, Any] = {"messages": GRAVITY, "max_tokens": 6, "temperature": 0}
    direct = (await client.chat.completions.create(model="chat", **asked)).choices[0]
    headers = {"x-request-id": request_id}
    if stream:
        chunks = [
            chunk
            async for chunk in await buyer.chat.completions.create(
                model="resold", stream=True, extra_headers=headers, **asked
            )
        ]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        reason, usage = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1], chunks[-1].usage
    else:
        answer = await buyer.chat.completions.create(model="resold", extra_headers=headers, **asked)
        text, reason, usage = answer.choices[0].message.content or "", answer.choices[0].finish_reason, answer.usage
    assert (text, reason) == (direct.message.content, direct.finish_reason)
    downstream, upstream = await both_bills(reseller, data_path, request_id)
    assert downstream.outcome == upstream.outcome == "COMPLETED"
    assert downstream.tokens() == upstream.tokens() == (INPUT_TOKENS, 6)
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (INPUT_TOKENS, 6)


async def test_a_providers_vectors_are_its_own(
    reseller: DataPath, data_path: DataPath, buyer: openai.AsyncOpenAI, client: openai.AsyncOpenAI
) -> None:
    request_id, texts = new_uid(), ["gravity", "a cat sat on the mat"]
    direct = await client.embeddings.create(model="vectors", input=texts)
    resold = await buyer.embeddings.create(model="vectors", input=texts, extra_headers={"x-request-id": request_id})
    assert [one.embedding for one in resold.data] == [one.embedding for one in direct.data]
    downstream, upstream = await both_bills(reseller, data_path, request_id)
    assert downstream.tokens() == upstream.tokens() == (direct.usage.prompt_tokens, 0)


@pytest.mark.parametrize(("model", "input_tokens"), [("resold", 0), ("counted", INPUT_TOKENS)])
async def test_a_client_that_hangs_up_ends_the_call_at_the_provider(
    reseller: DataPath, data_path: DataPath, buyer: openai.AsyncOpenAI, model: str, input_tokens: int
) -> None:
    """It pays what the provider said by then, else a token a piece: never more than the provider counts."""
    request_id = new_uid()
    stream = await endless(buyer, model, request_id)
    for _ in range(4):
        await anext(stream)
    await stream.close()
    downstream, upstream = await both_bills(reseller, data_path, request_id)
    assert downstream.outcome == upstream.outcome == "CANCELLED"
    assert downstream.tokens()[0] == input_tokens
    assert 4 <= downstream.tokens()[1] <= upstream.tokens()[1] < 450


async def test_inference_killed_in_the_middle_of_a_providers_stream_bills_once_and_no_more_than_was_delivered(
    reseller: DataPath, data_path: DataPath, buyer: openai.AsyncOpenAI
) -> None:
    """The next process settles the call; at the provider it has ended with the connection."""
    request_id = new_uid()
    stream = await endless(buyer, "resold", request_id)
    received = [await anext(stream) for _ in range(20)]
    # What was delivered since the journal's last commit costs nothing.
    while not reseller.has_progress(request_id):
        received.append(await anext(stream))
    await reseller.end(signal.SIGKILL)
    # What the client library makes of a cut connection is its own affair.
    with contextlib.suppress(Exception):
        async for chunk in stream:
            received.append(chunk)
    assert all(one.record.request_id != request_id for one in reseller.records())
    await reseller.start()
    downstream, upstream = await both_bills(reseller, data_path, request_id)
    assert (downstream.outcome, upstream.outcome) == ("INTERRUPTED", "CANCELLED")
    assert 0 < downstream.tokens()[1] <= len(received)
    assert downstream.tokens()[1] <= upstream.tokens()[1]


@pytest.mark.parametrize(
    ("model", "status", "code"), [("away", 503, "provider_unreachable"), ("missing", 502, "provider_misconfigured")]
)
async def test_a_provider_that_takes_no_call_costs_nothing(
    reseller: DataPath, buyer: openai.AsyncOpenAI, model: str, status: int, code: str
) -> None:
    request_id = new_uid()
    with pytest.raises(openai.InternalServerError) as refused:
        await buyer.chat.completions.create(model=model, messages=GRAVITY, extra_headers={"x-request-id": request_id})
    assert (refused.value.status_code, refused.value.code) == (status, code)
    billed = await reseller.billed(request_id)
    assert (billed.outcome, billed.tokens()) == ("FAILED", (0, 0))


async def test_a_key_that_the_provider_refuses_is_our_fault_until_it_is_renewed(
    key: str, keys_dir: Path, reseller: DataPath, buyer: openai.AsyncOpenAI
) -> None:
    """Not the caller's 401; and a renewed file needs no restart. Neither key nor prompt is logged."""
    spoilt = key[:-1] + ("a" if key[-1] != "a" else "b")
    write_key(keys_dir, spoilt)
    with pytest.raises(openai.InternalServerError) as refused:
        await buyer.chat.completions.create(model="resold", messages=GRAVITY)
    assert (refused.value.status_code, refused.value.code) == (502, "provider_misconfigured")
    write_key(keys_dir, key)
    answer = await buyer.chat.completions.create(model="resold", messages=GRAVITY, max_tokens=2)
    assert answer.choices[0].message.content
    for secret in (key, spoilt, "What is gravity?"):
        assert secret not in reseller.log


async def test_the_models_say_what_they_answer(buyer: openai.AsyncOpenAI) -> None:
    """So that whoever lists them as a provider's knows."""
    models = {model.id: model.model_extra or {} async for model in await buyer.models.list()}
    assert models["resold"]["capabilities"] == {"chat_completion": True, "embeddings": False}
    assert models["vectors"]["capabilities"] == {"chat_completion": False, "embeddings": True}


# Faults on the wire


class Wire:
    """A server that sends these bytes to every request, and then waits until its client has gone."""

    def __init__(self, *parts: bytes, ends: bool) -> None:
        self._parts = parts
        self._ends = ends
        self.connections = 0
        self.requests = 0
        self.left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while head := await _head(reader):
            self.requests += 1
            length = next(int(line.split(":")[1]) for line in head if line.startswith("content-length"))
            await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for part in self._parts:
                writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            if self._ends:
                writer.write(b"0\r\n\r\n")
            await writer.drain()
        self.left.set()
        writer.close()


async def _head(reader: asyncio.StreamReader) -> list[str]:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return []


@asynccontextmanager
async def called_over(
    wire: Wire, folder: Path, **limits: Any
) -> AsyncIterator[tuple[ProviderBackend, providers_pb2.ProviderTarget]]:
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    backend = ProviderBackend(provider_keys(folder), ProviderLimits(**limits))
    try:
        port = server.sockets[0].getsockname()[1]
        yield backend, a_provider(base_url=f"http://127.0.0.1:{port}/v1")
    finally:
        await backend.close()
        server.close()


async def test_a_stream_that_stalls_is_given_up_and_its_connection_closed(tmp_path: Path) -> None:
    wire = Wire(a_chunk("one"), ends=False)
    async with called_over(wire, tmp_path, silence_s_max=0.2) as (backend, target):
        pieces = backend.generate(target, "record", [Message("user", "x")], Sampling())
        assert (await anext(pieces)).text == "one"
        with pytest.raises(ProviderTimeout, match=r"said nothing for 0\.2 s"):
            await anext(pieces)
        await asyncio.wait_for(wire.left.wait(), 10)


async def test_a_caller_who_is_cancelled_while_it_waits_closes_the_connection(tmp_path: Path) -> None:
    wire = Wire(a_chunk("one"), ends=False)
    async with called_over(wire, tmp_path) as (backend, target):
        seen: list[str] = []

        async def caller() -> None:
            async for piece in backend.generate(target, "record", [Message("user", "x")], Sampling()):
                seen.append(piece.text)

        task = asyncio.create_task(caller())
        await wait_until(lambda: bool(seen))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.wait_for(wire.left.wait(), 10)


async def test_calls_one_after_the_other_share_a_connection(tmp_path: Path) -> None:
    wire = Wire(a_chunk("one"), a_chunk("", "stop"), a_chunk(usage=(3, 1)), DONE, ends=True)
    async with called_over(wire, tmp_path) as (backend, target):
        for _ in range(3):
            pieces = backend.generate(target, "record", [Message("user", "x")], Sampling())
            assert "".join([piece.text async for piece in pieces]) == "one"
        assert (wire.connections, wire.requests) == (1, 3)
