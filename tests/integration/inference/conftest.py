"""One inference process over one instance of each engine for all tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import openai
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.catalog.v1 import catalog_pb2

from chassis.ids import new_uid
from services.deploy.compute.interface import InstanceState, InstanceView
from services.deploy.compute.local import LocalProvider
from tests.infra.broker import Broker, running_broker
from tests.infra.data_path import DataPath, a_deployment, running_data_path
from tests.infra.instances import instance_spec, local_provider, local_settings, wait_for_state

CHAT, EMBED = catalog_pb2.TASK_CHAT_COMPLETION, catalog_pb2.TASK_EMBEDDINGS
HEAR, LOOK = catalog_pb2.TASK_TRANSCRIPTION, catalog_pb2.TASK_IMAGE_CLASSIFICATION


@dataclass(frozen=True)
class Instances:
    """What answers: SmolLM2-135M with four slots of 512 tokens, all-MiniLM-L6-v2, and the echo."""

    text: InstanceView
    vectors: InstanceView
    echo: InstanceView


@dataclass(frozen=True)
class MediaInstances:
    """What answers: Whisper tiny.en for up to 100 seconds, and text image orientation."""

    speech: InstanceView
    images: InstanceView


@pytest_asyncio.fixture(scope="session")
async def inference_provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalProvider]:
    async with local_provider(local_settings(tmp_path_factory.mktemp("instances"))) as provider:
        yield provider


@pytest_asyncio.fixture(scope="session")
async def instances(inference_provider: LocalProvider) -> Instances:
    provider = inference_provider
    await provider.launch(instance_spec("llamacpp", "text", slots="4", context_tokens="512"))
    await provider.launch(instance_spec("onnx", "vectors"))
    await provider.launch(instance_spec("noop", "echo"))
    return Instances(
        *[await wait_for_state(provider, name, InstanceState.READY) for name in ("text", "vectors", "echo")]
    )


@pytest_asyncio.fixture(scope="session")
async def media_instances(inference_provider: LocalProvider, data_path: DataPath) -> MediaInstances:
    """Behind the endpoints `speech` and `pages`, serverless, and `own-speech` and `own-pages`, managed."""
    await inference_provider.launch(instance_spec("whisper", "speech", seconds_max="100"))
    await inference_provider.launch(instance_spec("images", "images"))
    speech, images = [
        await wait_for_state(inference_provider, name, InstanceState.READY) for name in ("speech", "images")
    ]
    for prefix, serverless in (("", True), ("own-", False)):
        await data_path.put_route(f"{prefix}speech", a_deployment("main", speech, HEAR), serverless=serverless)
        await data_path.put_route(f"{prefix}pages", a_deployment("main", images, LOOK), serverless=serverless)
    return MediaInstances(speech, images)


@pytest_asyncio.fixture(scope="session")
async def data_path_broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Broker]:
    """Not the broker of all tests, whose buckets are emptied for each."""
    async with running_broker(tmp_path_factory.mktemp("data-path-broker")) as broker:
        yield broker


@pytest_asyncio.fixture(scope="session")
async def data_path(
    data_path_broker: Broker, instances: Instances, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[DataPath]:
    async with running_data_path(data_path_broker, tmp_path_factory.mktemp("data-path")) as running:
        retired = Timestamp(seconds=1_000_000_000)
        text = instances.text
        await running.put_route("chat", a_deployment("main", text, CHAT), a_deployment("idle", text, CHAT, 0))
        await running.put_route("own", a_deployment("main", text, CHAT), serverless=False)
        await running.put_route("vectors", a_deployment("main", instances.vectors, EMBED))
        await running.put_route("echo", a_deployment("main", instances.echo, 0, tasks=[]), serverless=False)
        await running.put_route(
            "split",
            a_deployment("big", instances.vectors, EMBED, 75),
            a_deployment("small", instances.vectors, EMBED, 25),
        )
        await running.put_route("waiting", a_deployment("main", None, CHAT))
        await running.put_route("retired", a_deployment("main", text, CHAT, retire_time=retired))
        await running.put_route("theirs", a_deployment("main", text, CHAT), project_uid=new_uid())
        yield running


@pytest_asyncio.fixture(scope="session")
async def key(data_path: DataPath) -> str:
    return await data_path.put_key()


@pytest_asyncio.fixture
async def client(data_path: DataPath, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """The `openai` client, unmodified."""
    async with openai.AsyncOpenAI(base_url=f"{data_path.rest}/v1", api_key=key, max_retries=0, timeout=60) as made:
        yield made


@pytest_asyncio.fixture
async def channel(data_path: DataPath) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(data_path.grpc) as made:
        yield made
