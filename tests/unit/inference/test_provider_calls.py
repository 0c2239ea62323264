"""A call of a provider's model from admission to its record, however it ends."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from services.inference.domain.calls import Sampling
from services.inference.domain.errors import (
    ContentFiltered,
    ProviderFailed,
    ProviderMisconfigured,
    ProviderTimeout,
    ProviderUnreachable,
)
from services.inference.usecases.generation import Generation
from tests.infra.provider import DONE, ScriptedProvider, a_chunk
from tests.unit.inference.build import calls_with
from tests.unit.inference.test_calls import (
    CANCELLED,
    COMPLETED,
    FAILED,
    HELLO,
    INTERRUPTED,
    TIMED_OUT,
    read,
    settled,
)

ONE, TWO = a_chunk("one "), a_chunk("two")
END = [a_chunk("", "stop"), a_chunk(usage=(11, 9)), DONE]


async def a_chat(setup: SimpleNamespace) -> Generation:
    return await setup.calls.chat(setup.key, "far", HELLO, Sampling())  # type: ignore[no-any-return]


async def test_an_answer_is_billed_as_its_provider_counted_it(tmp_path: Path) -> None:
    async with calls_with(tmp_path, provider=ScriptedProvider(ONE, TWO, *END)) as setup:
        generation = await a_chat(setup)
        assert await read(generation) == ["one ", "two"]
        assert await settled(setup) == (COMPLETED, 11, 9)
        assert (generation.finish_reason, generation.instance_uid) == ("stop", "")


async def test_a_client_that_leaves_before_the_count_pays_a_token_a_piece(tmp_path: Path) -> None:
    """What the provider would have counted is not known: each piece holds one token at least."""
    provider = ScriptedProvider(ONE, TWO, asyncio.Event())
    async with calls_with(tmp_path, provider=provider) as setup:
        pieces = (await a_chat(setup)).pieces()
        assert [await anext(pieces), await anext(pieces)] == ["one ", "two"]
        await pieces.aclose()
        assert provider.body.is_closed
        assert await settled(setup) == (CANCELLED, 0, 2)


async def test_a_client_that_leaves_pays_the_running_count_where_it_is_known(tmp_path: Path) -> None:
    provider = ScriptedProvider(a_chunk("one ", usage=(11, 3)), asyncio.Event())
    async with calls_with(tmp_path, provider=provider) as setup:
        pieces = (await a_chat(setup)).pieces()
        await anext(pieces)
        await pieces.aclose()
        assert await settled(setup) == (CANCELLED, 11, 3)


@pytest.mark.parametrize(
    ("parts", "kind", "billed"),
    [
        ([httpx2.ReadError("reset")], ProviderFailed, (FAILED, 0, 0)),
        ([ONE, httpx2.ReadError("reset")], ProviderFailed, (INTERRUPTED, 0, 1)),
        ([ONE, httpx2.ReadTimeout("silent")], ProviderTimeout, (TIMED_OUT, 0, 1)),
        ([httpx2.ReadTimeout("silent")], ProviderTimeout, (FAILED, 0, 0)),
    ],
)
async def test_a_provider_that_breaks_costs_what_was_delivered(
    tmp_path: Path, parts: list[Any], kind: type[Exception], billed: tuple[int, int, int]
) -> None:
    async with calls_with(tmp_path, provider=ScriptedProvider(*parts)) as setup:
        with pytest.raises(kind):
            await read(await a_chat(setup))
        assert await settled(setup) == billed


async def test_an_answer_that_leaves_as_a_whole_is_free_when_its_provider_breaks(tmp_path: Path) -> None:
    provider = ScriptedProvider(ONE, httpx2.ReadError("reset"))
    async with calls_with(tmp_path, provider=provider) as setup:
        with pytest.raises(ProviderFailed):
            [piece async for piece in (await a_chat(setup)).pieces(leave_at_once=False)]
        assert await settled(setup) == (FAILED, 0, 0)


async def test_a_provider_that_is_away_costs_nothing(tmp_path: Path) -> None:
    provider = ScriptedProvider()
    provider.not_reached = httpx2.ConnectError("refused")
    async with calls_with(tmp_path, provider=provider) as setup:
        with pytest.raises(ProviderUnreachable):
            await read(await a_chat(setup))
        assert await settled(setup) == (FAILED, 0, 0)


async def test_a_refused_credential_of_ours_costs_nothing(tmp_path: Path) -> None:
    async with calls_with(tmp_path, provider=ScriptedProvider(status=401)) as setup:
        with pytest.raises(ProviderMisconfigured):
            await read(await a_chat(setup))
        assert await settled(setup) == (FAILED, 0, 0)


@pytest.mark.parametrize(
    ("usage", "billed"),
    [
        ({"prompt_tokens": 40, "completion_tokens": 0}, (COMPLETED, 40, 0)),
        (None, (FAILED, 0, 0)),
    ],
)
async def test_a_filtered_prompt_is_billed_as_far_as_the_provider_says_what_it_read(
    tmp_path: Path, usage: dict[str, int] | None, billed: tuple[int, int, int]
) -> None:
    body = json.dumps({"error": {"code": "content_filter"}, "usage": usage}).encode()
    async with calls_with(tmp_path, provider=ScriptedProvider(body, status=400)) as setup:
        with pytest.raises(ContentFiltered):
            await read(await a_chat(setup))
        assert await settled(setup) == billed


async def test_embeddings_are_one_request_and_billed_as_counted(tmp_path: Path) -> None:
    """As many texts as a call may hold; the provider decides how long a vector may be."""
    rows = [{"index": index, "embedding": [float(index)]} for index in range(100)]
    body = json.dumps({"data": rows, "usage": {"prompt_tokens": 300, "total_tokens": 300}}).encode()
    provider = ScriptedProvider(body)
    async with calls_with(tmp_path, provider=provider) as setup:
        answered = await setup.calls.embed(setup.key, "far", ["text"] * 100, dimensions=1)
        assert (len(answered.rows), answered.input_tokens, len(provider.requests)) == (100, 300, 1)
        assert await settled(setup) == (COMPLETED, 300, 0)
