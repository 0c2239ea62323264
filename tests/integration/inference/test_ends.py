"""Ends that nobody asked for: an instance that is killed, inference that is killed or stopped; and what stays secret."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import pytest_asyncio
from modelyard.deploy.v1 import routes_pb2

from chassis.ids import new_uid
from services.deploy.compute.interface import InstanceState, InstanceView
from services.deploy.compute.local import LocalProvider
from tests.infra.broker import Broker
from tests.infra.data_path import DataPath, a_deployment, running_data_path
from tests.infra.instances import instance_spec, wait_for_state
from tests.integration.inference.conftest import CHAT, Instances

GRAVITY: list[Any] = [{"role": "user", "content": "What is gravity?"}]
INPUT_TOKENS = 13


@pytest_asyncio.fixture
async def own_data_path(data_path_broker: Broker, instances: Instances, tmp_path: Path) -> AsyncIterator[DataPath]:
    """Inference of the test's own, to be killed and started again; it knows the endpoint `mine`."""
    async with running_data_path(data_path_broker, tmp_path) as running:
        await running.put_route("mine", a_deployment("main", instances.text, CHAT))
        yield running


def client_of(data_path: DataPath, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{data_path.rest}/v1", api_key=key, max_retries=0, timeout=60)


async def endless(client: openai.AsyncOpenAI, model: str, request_id: str) -> openai.AsyncStream[Any]:
    """An answer that goes on until the context is full."""
    return await client.chat.completions.create(
        model=model,
        messages=GRAVITY,
        temperature=1.5,
        seed=3,
        stream=True,
        extra_headers={"x-request-id": request_id},
    )


async def rest_of(stream: openai.AsyncStream[Any], received: list[Any]) -> None:
    async for chunk in stream:
        received.append(chunk)


async def kill_engine(view: InstanceView) -> None:
    """Kill the process of an instance's model, and its Triton with it."""
    keeper = psutil.Process(int(view.handle["keeper_pid"]))
    for process in keeper.children(recursive=True):
        process.kill()


async def test_an_instance_killed_in_the_middle_of_a_stream_costs_what_was_delivered(
    data_path: DataPath, client: openai.AsyncOpenAI, inference_provider: LocalProvider
) -> None:
    """And the stream says that it broke, rather than end as if all were well."""
    await inference_provider.launch(instance_spec("llamacpp", "doomed", slots="1", context_tokens="512"))
    view = await wait_for_state(inference_provider, "doomed", InstanceState.READY)
    await data_path.put_route("doomed", a_deployment("main", view, CHAT))
    request_id = new_uid()
    stream = await endless(client, "doomed", request_id)
    received = [await anext(stream) for _ in range(5)]
    await kill_engine(view)
    with pytest.raises(openai.APIError, match="the instance broke while it answered"):
        await rest_of(stream, received)
    await inference_provider.terminate("doomed")
    billed = await data_path.billed(request_id)
    assert billed.outcome == "INTERRUPTED"
    assert billed.tokens()[0] == INPUT_TOKENS
    # Each chunk stands for one token or more, up to the character that it completes.
    assert len(received) <= billed.tokens()[1] <= 4 * len(received)


async def test_an_instance_that_is_gone_is_an_error_to_try_again(
    data_path: DataPath, client: openai.AsyncOpenAI, instances: Instances
) -> None:
    """Its route may be a moment old; the call is recorded at zero."""
    target = routes_pb2.RouteTarget(instance_uid="gone", address="127.0.0.1:9", model_name="model")
    await data_path.put_route("gone", a_deployment("main", instances.text, CHAT, targets=[target]))
    request_id = new_uid()
    with pytest.raises(openai.InternalServerError) as refused:
        await client.chat.completions.create(model="gone", messages=GRAVITY, extra_headers={"x-request-id": request_id})
    assert (refused.value.status_code, refused.value.response.headers["retry-after"]) == (503, "1")
    billed = await data_path.billed(request_id)
    assert (billed.outcome, billed.tokens()) == ("FAILED", (0, 0))


async def test_inference_killed_in_the_middle_of_a_stream_bills_no_more_than_was_delivered(
    own_data_path: DataPath, instances: Instances
) -> None:
    """The next process settles the call."""
    request_id = new_uid()
    async with client_of(own_data_path, await own_data_path.put_key()) as client:
        stream = await endless(client, "mine", request_id)
        received = [await anext(stream) for _ in range(20)]
        # What was delivered since the journal's last commit costs nothing.
        while not own_data_path.has_progress(request_id):
            received.append(await anext(stream))
        await own_data_path.end(signal.SIGKILL)
        # What the client library makes of a cut connection is its own affair; it is no end as if all were well.
        with contextlib.suppress(Exception):
            await rest_of(stream, received)
        assert received[-1].usage is None
    assert not own_data_path.records()
    await own_data_path.start()
    billed = await own_data_path.billed(request_id)
    assert (billed.outcome, billed.tokens()[0]) == ("INTERRUPTED", INPUT_TOKENS)
    # Each chunk stands for one token or more, up to the character that it completes.
    assert 0 < billed.tokens()[1] <= 4 * len(received)


async def test_a_clean_stop_settles_what_it_cuts(
    data_path_broker: Broker, instances: Instances, tmp_path: Path
) -> None:
    """Calls have half of the time for the stop; the rest are cut by us, and pay for what was delivered."""
    async with running_data_path(data_path_broker, tmp_path, stop_s_max=2) as running:
        await running.put_route("mine", a_deployment("main", instances.text, CHAT))
        request_id = new_uid()
        async with client_of(running, await running.put_key()) as client:
            stream = await endless(client, "mine", request_id)
            await anext(stream)
            assert await running.end() == 0
            await stream.close()
        (one,) = [one for one in running.records() if one.record.request_id == request_id]
        assert one.outcome == "INTERRUPTED"
        assert one.tokens()[1] > 0


async def test_no_prompt_no_answer_and_no_key_is_written_anywhere(
    own_data_path: DataPath, instances: Instances
) -> None:
    """Not in a log line at the most talkative level, and not in the journal, for calls that are answered or refused."""
    key, secret = await own_data_path.put_key(), "xyzzy-plugh"
    wrong = "my_aaaaaaaa_bbbbbbbbbbbbbbbbcccccccc"
    long_answer = ""
    bodies: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": f"What is gravity, {secret}?"}], "max_tokens": 24, "temperature": 0},
        {"messages": [{"role": "user", "content": secret}], "max_tokens": 0},
        {"messages": [{"role": "user", "content": f"{secret} " * 300}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "text": secret}]}]},
        {"messages": [{"role": secret, "content": secret}]},
        {"messages": secret},
        {"messages": [{"role": "user", "content": secret}], secret: secret},
    ]
    for body in bodies:
        content = json.dumps({"model": "mine", **body}).encode()
        answer = await own_data_path.send("POST", "/v1/chat/completions", content, key=key)
        if answer.status == 200:
            long_answer = answer.json()["choices"][0]["message"]["content"]
    await own_data_path.send("POST", "/v1/chat/completions", secret.encode(), key=wrong)
    await own_data_path.send("GET", f"/v1/{secret}?{secret}", key=wrong)
    await own_data_path.end()
    written = own_data_path.log.encode() + b"".join(path.read_bytes() for path in own_data_path.journal_dir.iterdir())
    assert len(long_answer) > 20
    assert b'"refused"' in written
    for text in (secret, key, key.split("_")[2], wrong.split("_")[2], long_answer[:16]):
        assert text.encode() not in written, text


async def test_a_journal_that_is_held_refuses_a_second_process(
    own_data_path: DataPath, data_path_broker: Broker
) -> None:
    """It ends with a word about why, and touches nothing."""
    second = DataPath(
        data_path_broker, own_data_path.journal_dir.parent / "second", journal_dir=own_data_path.journal_dir
    )
    second.log_file.parent.mkdir()
    with pytest.raises(TimeoutError, match="another process writes the journal"):
        await second.start()
    assert await asyncio.wait_for(second.end(), 10) == 1
    await second.close()
