"""One running instance of each engine for all tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.deploy.compute.interface import InstanceState
from services.deploy.compute.local import LocalProvider
from tests.infra.instances import EngineClient, instance_spec, local_provider, local_settings, wait_for_state


@pytest_asyncio.fixture(scope="session")
async def engine_provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalProvider]:
    async with local_provider(local_settings(tmp_path_factory.mktemp("engines"))) as provider:
        yield provider


@pytest_asyncio.fixture(scope="session")
async def text_engine(engine_provider: LocalProvider) -> AsyncIterator[EngineClient]:
    """SmolLM2-135M with four slots of 512 tokens; eight more calls may wait."""
    spec = instance_spec("llamacpp", "text-engine", slots="4", context_tokens="512", waiting_max="8")
    await engine_provider.launch(spec)
    client = EngineClient(await wait_for_state(engine_provider, "text-engine", InstanceState.READY))
    yield client
    await client.close()


@pytest_asyncio.fixture(scope="session")
async def embedding_engine(engine_provider: LocalProvider) -> AsyncIterator[EngineClient]:
    """all-MiniLM-L6-v2."""
    await engine_provider.launch(instance_spec("onnx", "embedding-engine"))
    client = EngineClient(await wait_for_state(engine_provider, "embedding-engine", InstanceState.READY))
    yield client
    await client.close()


async def started(provider: LocalProvider, engine: str, **parameters: str) -> EngineClient:
    await provider.launch(instance_spec(engine, f"{engine}-engine", **parameters))
    return EngineClient(await wait_for_state(provider, f"{engine}-engine", InstanceState.READY))


@pytest_asyncio.fixture(scope="session")
async def speech_engine(engine_provider: LocalProvider) -> AsyncIterator[EngineClient]:
    """Whisper tiny.en for up to 100 seconds; one file at a time, and two more may wait."""
    client = await started(engine_provider, "whisper", seconds_max="100", slots="1", waiting_max="2")
    yield client
    await client.close()


@pytest_asyncio.fixture(scope="session")
async def image_engine(engine_provider: LocalProvider) -> AsyncIterator[EngineClient]:
    """Text image orientation, for images of up to a million pixels."""
    client = await started(engine_provider, "images", pixels_max="1000000")
    yield client
    await client.close()


@pytest_asyncio.fixture(scope="session")
async def word_engine(engine_provider: LocalProvider) -> AsyncIterator[EngineClient]:
    """WordLlama, for texts of up to 64 tokens."""
    client = await started(engine_provider, "wordvectors", context_tokens="64")
    yield client
    await client.close()


@pytest.fixture
def text_token_log(text_engine: EngineClient) -> Path:
    return Path(text_engine.view.handle["folder"]) / "tokens.jsonl"


@pytest.fixture
def embedding_token_log(embedding_engine: EngineClient) -> Path:
    return Path(embedding_engine.view.handle["folder"]) / "tokens.jsonl"
