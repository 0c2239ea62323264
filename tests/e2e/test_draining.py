"""Fewer instances, or none: what runs is answered to its end and billed, and what comes goes elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest_asyncio
from modelyard.deploy.v1 import deploy_pb2
from modelyard_client import Modelyard
from openai import APIStatusError, AsyncOpenAI

from tests.infra.instances import wait_until
from tests.infra.up import Up

PROJECT = "drained"
STREAMS = 2
# Takes seconds, which is longer than an RPC and shorter than what running calls get. The model says what is likeliest,
# and so repeats itself instead of coming to an end.
REQUEST = "Write a very long story about a lighthouse, a fox and the sea. Do not stop."
TOKENS_MAX = 250


@dataclass
class Stream:
    """One answer as its client saw it."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    id: str = ""
    finish_reason: str = ""
    tokens: int = 0

    async def read(self, client: AsyncOpenAI) -> None:
        chunks = await client.chat.completions.create(
            model="story",
            messages=[{"role": "user", "content": REQUEST}],
            max_tokens=TOKENS_MAX,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in chunks:
            self.begun.set()
            self.id = chunk.id
            if chunk.choices and chunk.choices[0].finish_reason:
                self.finish_reason = chunk.choices[0].finish_reason
            if chunk.usage:
                self.tokens = chunk.usage.completion_tokens


@pytest_asyncio.fixture
async def client(up: Up) -> AsyncIterator[AsyncOpenAI]:
    """Of a project whose chat model has two instances of its own."""
    await asyncio.to_thread(up.run, "project", "create", PROJECT)
    key = await asyncio.to_thread(up.json, "key", "create", "-p", PROJECT)
    deploy = ("deploy", "smollm2-135m-instruct", "-p", PROJECT, "--endpoint", "story", "--deployment", "blue")
    await asyncio.to_thread(up.run, *deploy, "--instance-type", "local-1", "--count", "2")
    async with AsyncOpenAI(base_url=f"{up.addresses['rest']}/v1", api_key=key["secret"], max_retries=0) as client:
        yield client


async def begin(client: AsyncOpenAI) -> tuple[list[Stream], list[asyncio.Task[None]]]:
    """Streams on every instance, all of them under way."""
    streams = [Stream() for _ in range(STREAMS)]
    reading = [asyncio.create_task(stream.read(client)) for stream in streams]
    await asyncio.gather(*(stream.begun.wait() for stream in streams))
    return streams, reading


async def test_calls_that_run_outlive_scaling_down_and_deletion(up: Up, client: AsyncOpenAI) -> None:
    seen: list[Stream] = []
    endpoint = f"projects/{PROJECT}/endpoints/story"
    async with Modelyard.from_file(up.home / "addresses.json") as modelyard:
        fewer = deploy_pb2.ScaleDeploymentRequest(name=f"{endpoint}/deployments/blue", instance_count=1)
        none = deploy_pb2.DeleteEndpointRequest(name=endpoint)
        for change, request in ((modelyard.deploy.ScaleDeployment, fewer), (modelyard.deploy.DeleteEndpoint, none)):
            streams, reading = await begin(client)
            await change(request)
            assert not all(task.done() for task in reading)
            await asyncio.gather(*reading)
            assert {stream.finish_reason for stream in streams} <= {"length", "stop"}
            seen += streams

    async def is_gone() -> bool:
        try:
            await Stream().read(client)
        except APIStatusError as refused:
            return refused.status_code == 404
        return False

    await wait_until(is_gone)

    async def is_billed() -> bool:
        records = await asyncio.to_thread(up.json, "usage", "-p", PROJECT, "-n", "0")
        output = {
            one["record"]["id"]: int(quantity["value"])
            for one in records
            for quantity in one["record"]["quantities"]
            if quantity["meter"] == "METER_OUTPUT_TOKENS"
        }
        return all(output.get(stream.id.removeprefix("chatcmpl-")) == stream.tokens > 0 for stream in seen)

    await wait_until(is_billed, timeout_s=30)
