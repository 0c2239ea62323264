"""The embedding engine on a real Triton with a real model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import grpc
import pytest

from engines.refusals import read_refusal
from engines.token_log import read_token_log
from tests.infra.instances import EngineClient

REFERENCE = json.loads(Path(__file__).with_name("reference_embeddings.json").read_text())


def cosine(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True)) / (math.hypot(*left) * math.hypot(*right))


async def test_vectors_are_those_of_the_float_weights(embedding_engine: EngineClient) -> None:
    """Reference: make_reference_embeddings.py, the published float32 weights in numpy."""
    vectors, counts = await embedding_engine.embed([entry["text"] for entry in REFERENCE])
    assert counts == [entry["tokens"] for entry in REFERENCE]
    assert min(cosine(v, entry["embedding"]) for v, entry in zip(vectors, REFERENCE, strict=True)) > 0.995


async def test_vectors_have_unit_length_and_384_numbers(embedding_engine: EngineClient) -> None:
    (vector,), _ = await embedding_engine.embed(["hello"])
    assert len(vector) == 384
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)


async def test_a_text_has_the_same_vector_whatever_its_neighbours(embedding_engine: EngineClient) -> None:
    alone, _ = await embedding_engine.embed(["hello"])
    among, _ = await embedding_engine.embed(["a much longer neighbour " * 10, "hello", "x"])
    assert among[1] == alone[0]


async def test_256_tokens_fit_and_257_are_refused_with_both_lengths(embedding_engine: EngineClient) -> None:
    """Special tokens count: 254 words and two of them."""
    _, counts = await embedding_engine.embed(["word " * 254])
    assert counts == [256]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await embedding_engine.embed(["fine", "word " * 255])
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    facts = {"prompt_tokens": "257", "context_tokens": "256", "item": "1"}
    assert read_refusal(refused.value.details() or "") == ("PROMPT_TOO_LONG", facts)


async def test_the_token_log_has_the_sum_of_a_call(embedding_engine: EngineClient, embedding_token_log: Path) -> None:
    _, counts = await embedding_engine.embed(["one", "two words"], request_id="counted")
    line = next(line for line in read_token_log(embedding_token_log) if line["request_id"] == "counted")
    assert (line["input_tokens"], line["output_tokens"], line["end"]) == (sum(counts), 0, "stop")
