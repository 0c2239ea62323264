"""The token table engine on a real Triton with a real model."""

from __future__ import annotations

import math

import grpc
import pytest

from engines.refusals import read_refusal
from tests.infra.instances import EngineClient
from tests.integration.engines.test_embedding_engine import cosine


async def test_texts_that_mean_the_same_are_near(word_engine: EngineClient) -> None:
    (cat, kitten, law), counts = await word_engine.embed(["the cat sleeps", "a kitten is asleep", "tax law of trusts"])
    assert cosine(cat, kitten) > cosine(cat, law) + 0.2
    assert (len(cat), math.hypot(*cat)) == (256, pytest.approx(1, abs=1e-5))
    assert all(2 <= count <= 8 for count in counts)


async def test_the_order_of_words_does_not_count(word_engine: EngineClient) -> None:
    """The card says so: a text is the mean of its tokens."""
    (one, other), _ = await word_engine.embed(["dog bites man", "man bites dog"])
    assert cosine(one, other) == pytest.approx(1, abs=1e-3)


async def test_no_special_tokens_are_counted_and_what_is_too_long_is_refused(word_engine: EngineClient) -> None:
    _, counts = await word_engine.embed(["word " * 63])
    assert counts == [64]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await word_engine.embed(["fine", "word " * 64])
    facts = {"prompt_tokens": "65", "context_tokens": "64", "item": "1"}
    assert read_refusal(refused.value.details() or "") == ("PROMPT_TOO_LONG", facts)


async def test_a_text_without_tokens_is_refused(word_engine: EngineClient) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="PROMPT_EMPTY item=0"):
        await word_engine.embed([""])
