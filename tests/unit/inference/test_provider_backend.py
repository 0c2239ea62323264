"""What is asked of external providers, and what their answers mean, without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from modelyard.catalog.v1 import providers_pb2

from services.inference.backends.provider import ProviderBackend, ProviderLimits
from services.inference.domain.calls import Message, Sampling
from services.inference.domain.errors import (
    ContentFiltered,
    PromptTooLong,
    ProviderBusy,
    ProviderFailed,
    ProviderMisconfigured,
    ProviderTimeout,
    ProviderUnreachable,
    RequestInvalid,
)
from services.inference.domain.output import Piece
from services.inference.domain.rates import CallRate
from tests.infra.provider import (
    DONE,
    PROVIDER_KEY,
    ScriptedProvider,
    a_chunk,
    a_provider,
    an_event,
    provider_keys,
)

MESSAGES = [Message("system", "Be brief."), Message("user", "What is gravity?")]
ANSWER = [a_chunk("All "), a_chunk("falls."), a_chunk("", "stop"), a_chunk(usage=(13, 9)), DONE]
SECRET = "xyzzy-plugh"


def a_backend(folder: Path, provider: ScriptedProvider, **limits: Any) -> ProviderBackend:
    return ProviderBackend(provider_keys(folder), ProviderLimits(**limits), transport=provider)


async def ask(backend: ProviderBackend, sampling: Sampling | None = None, **target: Any) -> list[Piece]:
    pieces = backend.generate(a_provider(**target), "record", MESSAGES, sampling or Sampling())
    return [piece async for piece in pieces]


async def refused(folder: Path, status: int, body: Any = None, headers: dict[str, str] | None = None) -> Exception:
    """How an HTTP status of the provider is understood."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    provider = ScriptedProvider(content, status=status, headers=headers)
    with pytest.raises(Exception) as caught:
        await ask(a_backend(folder, provider))
    assert SECRET not in str(caught.value)
    return caught.value


# What is asked


async def test_openais_api_is_asked_with_a_bearer_key_and_always_for_the_usage(tmp_path: Path) -> None:
    provider = ScriptedProvider(*ANSWER)
    await ask(a_backend(tmp_path, provider), Sampling(max_tokens=5, temperature=0.5, stop=("x",)))
    request = provider.requests[0]
    assert str(request.url) == "https://api.acme.example/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert request.headers["x-request-id"] == "record"
    assert provider.asked == {
        "model": "talker-1",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is gravity?"},
        ],
        "max_tokens": 5,
        "temperature": 0.5,
        "stop": ["x"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_azure_openai_is_asked_by_deployment_with_its_own_header(tmp_path: Path) -> None:
    provider = ScriptedProvider(*ANSWER)
    await ask(
        a_backend(tmp_path, provider),
        kind=providers_pb2.PROVIDER_KIND_AZURE_OPENAI,
        base_url="https://acme.openai.azure.com",
        model="gpt 4o/eu",
        api_version="2024-10-21",
    )
    request = provider.requests[0]
    assert str(request.url) == (
        "https://acme.openai.azure.com/openai/deployments/gpt%204o%2Feu/chat/completions?api-version=2024-10-21"
    )
    assert request.headers["api-key"] == PROVIDER_KEY
    assert "authorization" not in request.headers


async def test_the_longest_answer_is_said_as_the_caller_said_it(tmp_path: Path) -> None:
    """Some models take the older name, some the newer one."""
    provider = ScriptedProvider(*ANSWER)
    await ask(a_backend(tmp_path, provider), Sampling(max_tokens=5, max_tokens_name="max_completion_tokens"))
    assert provider.asked["max_completion_tokens"] == 5
    assert "max_tokens" not in provider.asked


async def test_usage_in_every_chunk_is_asked_only_of_providers_that_know_it(tmp_path: Path) -> None:
    provider = ScriptedProvider(*ANSWER)
    await ask(a_backend(tmp_path, provider), continuous_usage=True)
    assert provider.asked["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


async def test_a_renewed_key_is_used_at_once(tmp_path: Path) -> None:
    provider = ScriptedProvider(*ANSWER)
    backend = a_backend(tmp_path, provider)
    await ask(backend)
    (tmp_path / "provider-keys" / "acme").write_text("sk-renewed-key")
    await ask(backend)
    assert provider.requests[1].headers["authorization"] == "Bearer sk-renewed-key"


@pytest.mark.parametrize(
    "target", [{"key_reference": "absent"}, {"key_reference": "../acme"}, {"base_url": "http://acme.example"}]
)
async def test_without_a_usable_address_and_key_nothing_is_sent(tmp_path: Path, target: dict[str, Any]) -> None:
    """That is for the operator, who finds why in the log; a caller sees no path of this machine."""
    provider = ScriptedProvider(*ANSWER)
    with pytest.raises(ProviderMisconfigured, match="no usable address or credential for provider 'acme'") as error:
        await ask(a_backend(tmp_path, provider), **target)
    assert provider.requests == []
    assert str(tmp_path) not in str(error.value)


# What is understood


async def test_the_providers_own_count_is_the_sum(tmp_path: Path) -> None:
    """A piece of text counts as one token until the provider says the whole."""
    pieces = await ask(a_backend(tmp_path, ScriptedProvider(*ANSWER)))
    assert [(piece.text, piece.output_tokens) for piece in pieces] == [("All ", 1), ("falls.", 1), ("", 0), ("", 7)]
    assert (pieces[-1].input_tokens, pieces[2].finish_reason) == (13, "stop")


async def test_a_provider_that_splits_tokens_is_believed_too(tmp_path: Path) -> None:
    """Its total is below what was counted, and corrects it."""
    parts = [a_chunk("a"), a_chunk("b"), a_chunk("c", "stop"), a_chunk(usage=(13, 2)), DONE]
    pieces = await ask(a_backend(tmp_path, ScriptedProvider(*parts)))
    assert sum(piece.output_tokens for piece in pieces) == 2


async def test_usage_in_every_chunk_is_the_running_count(tmp_path: Path) -> None:
    parts = [a_chunk("All ", usage=(13, 2)), a_chunk("falls.", "stop", usage=(13, 5)), a_chunk(usage=(13, 5)), DONE]
    pieces = await ask(a_backend(tmp_path, ScriptedProvider(*parts)), continuous_usage=True)
    assert [(piece.input_tokens, piece.output_tokens) for piece in pieces] == [(13, 2), (13, 3), (13, 0)]


async def test_events_come_in_any_parts_with_comments_between(tmp_path: Path) -> None:
    stream = b": keep-alive\n\n" + b"".join(ANSWER).replace(b"\n", b"\r\n")
    pieces = await ask(a_backend(tmp_path, ScriptedProvider(*(bytes([one]) for one in stream))))
    assert "".join(piece.text for piece in pieces) == "All falls."


async def test_what_azure_openai_says_before_the_answer_says_nothing(tmp_path: Path) -> None:
    verdict = {"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]}
    pieces = await ask(a_backend(tmp_path, ScriptedProvider(an_event(verdict), *ANSWER)))
    assert "".join(piece.text for piece in pieces) == "All falls."


async def test_an_answer_without_usage_is_whole_all_the_same(tmp_path: Path) -> None:
    """What is known of it is one token a piece."""
    pieces = await ask(a_backend(tmp_path, ScriptedProvider(a_chunk("a"), a_chunk("b", "length"), DONE)))
    assert [(piece.input_tokens, piece.output_tokens) for piece in pieces] == [(0, 1), (0, 1)]


@pytest.mark.parametrize(
    "parts",
    [
        [a_chunk("a")],
        [a_chunk("a"), DONE],
        [a_chunk("a"), an_event({"error": {"message": SECRET, "code": "server_error"}})],
        [a_chunk("a"), b"data: not json\n\n"],
        [a_chunk("a"), an_event({"choices": [{"delta": {"content": 7}}]})],
        [a_chunk("a", "stop"), an_event({"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": 1}})],
        [a_chunk("a"), httpx2.ReadError("reset")],
        [a_chunk("a"), httpx2.RemoteProtocolError("incomplete chunked read")],
        [b"data: " + b"x" * (5 * 1024 * 1024)],
    ],
    ids=["cut", "no end", "error", "no json", "no text", "absurd usage", "reset", "incomplete", "endless event"],
)
async def test_an_answer_that_breaks_off_is_a_failure(tmp_path: Path, parts: list[Any]) -> None:
    with pytest.raises(ProviderFailed) as failed:
        await ask(a_backend(tmp_path, ScriptedProvider(*parts)))
    assert SECRET not in str(failed.value)


async def test_an_answer_of_another_kind_is_a_failure(tmp_path: Path) -> None:
    """Such as a login page in the way."""
    provider = ScriptedProvider(b"<html>", headers={"content-type": "text/html"})
    with pytest.raises(ProviderFailed):
        await ask(a_backend(tmp_path, provider))


async def test_silence_is_a_timeout(tmp_path: Path) -> None:
    with pytest.raises(ProviderTimeout, match="said nothing for 60 s"):
        await ask(a_backend(tmp_path, ScriptedProvider(a_chunk("a"), httpx2.ReadTimeout("silent"))))


async def test_a_caller_who_leaves_closes_the_request(tmp_path: Path) -> None:
    provider = ScriptedProvider(*ANSWER)
    pieces = a_backend(tmp_path, provider).generate(a_provider(), "record", MESSAGES, Sampling())
    await anext(pieces)
    assert not provider.body.is_closed
    await pieces.aclose()
    assert provider.body.is_closed


# Refusals


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (401, {"error": {"message": SECRET}}, ProviderMisconfigured, "refused this platform's credential"),
        (403, {}, ProviderMisconfigured, "refused this platform's credential"),
        (404, {"error": {"code": "DeploymentNotFound"}}, ProviderMisconfigured, "has no such model"),
        (410, {"error": {"code": "model_retired"}}, ProviderMisconfigured, "has no such model"),
        (408, None, ProviderTimeout, "did not answer in time"),
        (504, b"<html>", ProviderTimeout, "did not answer in time"),
        (500, {"error": {"message": SECRET}}, ProviderFailed, "HTTP status 500; try again"),
        (502, b"", ProviderFailed, "HTTP status 502"),
        (302, b"", ProviderFailed, "HTTP status 302"),
        (
            400,
            {"error": {"message": SECRET, "code": "context_length_exceeded"}},
            PromptTooLong,
            "does not fit the model",
        ),
        (
            400,
            {"error": {"message": SECRET, "code": "unsupported_value", "param": "temperature"}},
            RequestInvalid,
            r"does not take temperature \(unsupported_value\)",
        ),
        (400, {"error": {"code": f"{SECRET} in a sentence", "param": None}}, RequestInvalid, "no reason given"),
        (422, {"error": 7}, RequestInvalid, "does not take the request"),
        (400, {"error": {"message": SECRET, "code": "content_filter"}}, ContentFiltered, "refused the prompt"),
    ],
)
async def test_a_refusal_is_said_in_our_words(
    tmp_path: Path, status: int, body: Any, kind: type[Exception], message: str
) -> None:
    """What is the operator's fault is not the caller's: a refused key is no 401."""
    problem = await refused(tmp_path, status, body)
    assert type(problem) is kind
    with pytest.raises(kind, match=message):
        raise problem


@pytest.mark.parametrize(
    ("headers", "retry_after_s"),
    [
        ({}, 1.0),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, 1.0),
        ({"retry-after": "-1"}, 1.0),
        ({"retry-after": "nan"}, 1.0),
        ({"retry-after": "1e9"}, 3600.0),
    ],
)
async def test_a_busy_provider_says_when(tmp_path: Path, headers: dict[str, str], retry_after_s: float) -> None:
    problem = await refused(tmp_path, 429, {}, headers)
    assert isinstance(problem, ProviderBusy)
    assert problem.retry_after_s == retry_after_s


async def test_what_a_content_filter_read_is_told(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 40, "completion_tokens": 0, "total_tokens": 40}
    problem = await refused(tmp_path, 400, {"error": {"code": "content_filter"}, "usage": usage})
    assert isinstance(problem, ContentFiltered)
    assert problem.read.input_tokens == 40


@pytest.mark.parametrize("error", [httpx2.ConnectError("refused"), httpx2.ConnectTimeout("slow")])
async def test_a_provider_that_is_away_is_unreachable(tmp_path: Path, error: Exception) -> None:
    provider = ScriptedProvider()
    provider.not_reached = error
    with pytest.raises(ProviderUnreachable, match="'acme' could not be reached"):
        await ask(a_backend(tmp_path, provider))


# Limits


async def test_more_calls_at_once_than_are_allowed_are_refused(tmp_path: Path) -> None:
    """Of one provider; when one has ended, the next may come."""
    backend = a_backend(tmp_path, ScriptedProvider(*ANSWER), calls_max=1)
    pieces = backend.generate(a_provider(), "record", MESSAGES, Sampling())
    await anext(pieces)
    with pytest.raises(ProviderBusy, match="1 calls run at provider 'acme'; 1 are allowed"):
        await ask(backend)
    assert await ask(backend, base_url="https://other.example")
    await pieces.aclose()
    assert await ask(backend)


async def test_more_calls_a_minute_than_are_allowed_are_refused(tmp_path: Path) -> None:
    backend = a_backend(tmp_path, ScriptedProvider(*ANSWER), calls_per_minute_max=1)
    await ask(backend)
    with pytest.raises(ProviderBusy, match="1 times within a minute") as busy:
        await ask(backend)
    assert 50 < (busy.value.retry_after_s or 0) <= 60


def test_a_rate_fills_evenly() -> None:
    """And never holds more than one minute's worth."""
    rate = CallRate(60)
    assert [rate.take(1000.0) for _ in range(60)] == [0.0] * 60
    assert rate.take(1000.0) == pytest.approx(1.0)
    assert rate.take(1001.5) == 0.0
    assert rate.take(1001.5) == pytest.approx(0.5)
    assert [rate.take(9000.0) for _ in range(60)] == [0.0] * 60
    assert rate.take(9000.0) > 0


def test_without_a_rate_any_number_is_allowed() -> None:
    rate = CallRate(0)
    assert [rate.take(1.0) for _ in range(1000)] == [0.0] * 1000


# Embeddings


def vectors(*rows: tuple[int, list[float]], usage: dict[str, int] | None) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in rows]
    return json.dumps({"object": "list", "data": data, "usage": usage}).encode()


async def test_vectors_come_back_in_the_order_of_the_texts(tmp_path: Path) -> None:
    body = vectors((1, [0.5, 1.0]), (0, [0.25, 2.0]), usage={"prompt_tokens": 6, "total_tokens": 6})
    provider = ScriptedProvider(body)
    embedded = await a_backend(tmp_path, provider).embed(a_provider(), "record", ["a", "b"], 2)
    assert embedded.rows[0] == bytes.fromhex("0000803e00000040")
    assert embedded.input_tokens == 6
    assert str(provider.requests[0].url).endswith("/v1/embeddings")
    assert provider.asked == {"model": "talker-1", "input": ["a", "b"], "encoding_format": "float", "dimensions": 2}


@pytest.mark.parametrize(
    "body",
    [
        vectors((0, [1.0]), usage=None),
        vectors((0, [1.0]), (0, [1.0]), usage=None),
        vectors((0, [1.0]), (1, [1.0, 2.0]), usage=None),
        vectors((0, []), (1, []), usage=None),
        vectors((0, [1e300]), (1, [1.0]), usage=None),
        b"{}",
        b"<html>",
    ],
    ids=["too few", "one twice", "two lengths", "empty", "too large a number", "no data", "no json"],
)
async def test_vectors_that_do_not_fit_the_texts_are_a_failure(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(ProviderFailed):
        await a_backend(tmp_path, ScriptedProvider(body)).embed(a_provider(), "record", ["a", "b"], None)


async def test_an_answer_that_is_too_large_is_not_read_on(tmp_path: Path) -> None:
    provider = ScriptedProvider(b"x" * 64, b"y" * 64, httpx2.ReadError("read on"))
    with pytest.raises(ProviderFailed, match="more than 100 bytes; send fewer texts"):
        await a_backend(tmp_path, provider, answer_bytes_max=100).embed(a_provider(), "record", ["a"], None)
