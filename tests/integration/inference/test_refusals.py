"""Bad input over REST: the status, OpenAI's error shape, and that nobody pays."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.ids import new_uid
from tests.infra.data_path import DataPath, HttpAnswer, read_answer

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
MIB = 1024 * 1024


def chat(**changes: Any) -> bytes:
    return json.dumps(
        {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, **changes}
    ).encode()


@contextlib.asynccontextmanager
async def nothing_admitted(data_path: DataPath, key: str) -> AsyncIterator[None]:
    """The calls before and after the block have neighbouring sequences: sequences are dense."""

    async def sequence() -> int:
        answer = await data_path.send("POST", EMBEDDINGS, b'{"model": "vectors", "input": "x"}', key=key)
        records = {one.record.id: one.record.journal_seq for one in data_path.records()}
        return records[answer.headers["x-modelyard-record"]]

    before = await sequence()
    yield
    assert await sequence() == before + 1


def check_refused(answer: HttpAnswer, status: int, code: str, says: str = "") -> None:
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (status, code), answer.body
    assert says in error["message"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("authorization", ["", "Bearer nonsense", "Bearer my_aaaaaaaa_aaaaaaaaaaaaaaaa"])
async def test_without_a_right_key_there_is_nothing(data_path: DataPath, key: str, authorization: str) -> None:
    async with nothing_admitted(data_path, key):
        answer = await data_path.send("POST", CHAT, chat(), headers={"authorization": authorization})
    check_refused(answer, 401, "key_invalid", "missing, wrong, expired or revoked")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "changes", [{"revoked": True}, {"expire_time": Timestamp(seconds=1)}], ids=["revoked", "expired"]
)
async def test_a_key_that_has_ended_opens_nothing(data_path: DataPath, key: str, changes: dict[str, Any]) -> None:
    ended = await data_path.put_key(**changes)
    async with nothing_admitted(data_path, key):
        check_refused(await data_path.send("POST", CHAT, chat(), key=ended), 401, "key_invalid")


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "says"),
    [
        (CHAT, chat(model="nothing"), 404, "model_not_callable", "GET /v1/models lists what is"),
        (CHAT, chat(model="theirs"), 404, "model_not_callable", "'theirs' is not callable with this key"),
        (CHAT, chat(model="chat/nothing"), 404, "model_not_callable", ""),
        (CHAT, chat(model="vectors"), 404, "task_not_supported", "does not answer chat completions"),
        (EMBEDDINGS, b'{"model": "chat", "input": "x"}', 404, "task_not_supported", "does not answer embeddings"),
        (CHAT, chat(model="retired"), 410, "model_retired", "was retired on 2001-09-09; deploy its replacement"),
        (CHAT, chat(model="waiting"), 503, "no_ready_instance", "no instance of 'waiting' answers now"),
        (CHAT, b'{"model": ', 400, "request_invalid", "the body is not JSON"),
        (CHAT, b'{"model": "\xff"}', 400, "request_invalid", "the body is not UTF-8 at byte 11"),
        (CHAT, b"", 400, "request_invalid", "the body is not JSON"),
        (CHAT, chat(max_tokens=0), 400, "request_invalid", "max_tokens is 0; 1 to 1000000 are allowed"),
        (CHAT, chat(max_tokens=-5), 400, "request_invalid", "max_tokens is -5"),
        (CHAT, chat(colour="red"), 400, "request_invalid", "the field 'colour' is not taken"),
        (CHAT, chat(messages=[]), 400, "request_invalid", "messages has 0 entries"),
        (CHAT, chat(stream=True, temperature=9), 400, "request_invalid", "temperature is 9"),
        (EMBEDDINGS, b'{"model": "vectors", "input": []}', 400, "request_invalid", "input has 0 texts"),
        (
            EMBEDDINGS,
            b'{"model": "vectors", "input": "x", "dimensions": 3}',
            400,
            "request_invalid",
            "dimensions is 3; the model gives 384",
        ),
    ],
)
async def test_what_cannot_be_answered_is_refused_and_free(
    data_path: DataPath, key: str, path: str, body: bytes, status: int, code: str, says: str
) -> None:
    async with nothing_admitted(data_path, key):
        answer = await data_path.send("POST", path, body, key=key)
    check_refused(answer, status, code, says)
    assert ("retry-after" in answer.headers) == (status == 503)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths(
    data_path: DataPath, key: str, stream: bool
) -> None:
    """Only the engine can count it, so the call was admitted; it is recorded at zero."""
    body = chat(messages=[{"role": "user", "content": "word " * 700}], stream=stream)
    request_id = new_uid()
    answer = await data_path.send("POST", CHAT, body, key=key, headers={"x-request-id": request_id})
    check_refused(answer, 400, "prompt_too_long", "the prompt has 710 tokens and the model's context holds 512")
    billed = await data_path.billed(request_id)
    assert (billed.outcome, billed.tokens()) == ("FAILED", (0, 0))


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_is_too_large_is_refused(data_path: DataPath, key: str, declared: bool) -> None:
    """With and without a declared length; it is read to its end, so that its client hears why."""
    async with nothing_admitted(data_path, key), data_path.connected() as (reader, writer):
        length = f"content-length: {9 * MIB}" if declared else "transfer-encoding: chunked"
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n{length}\r\n\r\n".encode())
        for _ in range(9):
            writer.write(b" " * MIB if declared else b"100000\r\n" + b" " * MIB + b"\r\n")
            await writer.drain()
        writer.write(b"" if declared else b"0\r\n\r\n")
        answer = await read_answer(reader)
    check_refused(answer, 413, "body_too_large", f"at most {8 * MIB} are allowed")


async def test_a_body_without_end_is_refused_before_it(data_path: DataPath, key: str) -> None:
    async with nothing_admitted(data_path, key), data_path.connected() as (reader, writer):
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head.encode())
        for _ in range(33):
            writer.write(b"100000\r\n" + b" " * MIB + b"\r\n")
            await writer.drain()
        answer = await read_answer(reader)
    check_refused(answer, 413, "body_too_large", f"at most {8 * MIB} are allowed")


async def test_a_client_that_leaves_while_it_sends_its_body_leaves_no_trace(data_path: DataPath, key: str) -> None:
    before = data_path.log.count("traceback")
    async with nothing_admitted(data_path, key), data_path.connected() as (_, writer):
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 1000\r\n\r\n{{"
        writer.write(head.encode())
        await writer.drain()
        writer.close()
        async with asyncio.timeout(10):
            while "the client left before its request was whole" not in data_path.log:  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.01)
    assert data_path.log.count("traceback") == before


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("POST", "/v1/completions", 404, "not_found"),
        ("GET", CHAT, 405, "invalid_argument"),
        ("DELETE", "/v1/models", 405, "invalid_argument"),
    ],
)
async def test_what_is_not_served_is_said_in_the_same_shape(
    data_path: DataPath, key: str, method: str, path: str, status: int, code: str
) -> None:
    answer = await data_path.send(method, path, key=key)
    check_refused(answer, status, code, f"{method} {path} is not served here")
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(("given", "kept"), [("my-request_1", True), ("x" * 65, False), ("a b", False)])
async def test_a_request_keeps_the_id_its_client_gave_it(data_path: DataPath, key: str, given: str, kept: bool) -> None:
    answer = await data_path.send("GET", "/v1/models", key=key, headers={"x-request-id": given})
    assert (answer.headers["x-request-id"] == given) == kept
