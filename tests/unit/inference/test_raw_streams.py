"""Raw tensor streams: every call of one ends with the stream, and nothing that goes wrong leaves a client waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from services.inference.rpc.open_inference import OpenInferenceServicer
from tests.unit.inference.build import a_key, until


class Servicer(OpenInferenceServicer):
    """Over calls that follow a script, and with a key at hand."""

    def __init__(self, script: Any) -> None:
        super().__init__(None, SimpleNamespace(raw=script), concurrent_calls_max=2)  # type: ignore[arg-type]

    def key(self) -> Any:
        return a_key()


async def requests(*names: str, then: asyncio.Event | None = None) -> AsyncIterator[service_pb2.ModelInferRequest]:
    for name in names:
        yield service_pb2.ModelInferRequest(model_name="m", id=name)
    if then is not None:
        await then.wait()


async def test_a_bug_in_one_call_ends_the_stream_with_an_error() -> None:
    async def raw(*_: Any, **__: Any) -> AsyncGenerator[Any, None]:
        raise ValueError("a bug")
        yield

    async with asyncio.timeout(5):
        with pytest.raises(ExceptionGroup):
            [answer async for answer in Servicer(raw).ModelStreamInfer(requests("a"), None)]


async def test_calls_have_ended_when_their_stream_is_closed() -> None:
    """Also those whose answers nobody took."""
    running: set[str] = set()

    async def raw(_key: Any, request: Any, **_: Any) -> AsyncGenerator[Any, None]:
        running.add(request.id)
        try:
            while True:
                yield service_pb2.ModelInferResponse(id=request.id)
                await asyncio.sleep(0)
        finally:
            running.discard(request.id)

    answers = Servicer(raw).ModelStreamInfer(requests("a", "b", then=asyncio.Event()), None)
    await anext(answers)
    await until(lambda: running == {"a", "b"})
    await answers.aclose()  # type: ignore[attr-defined]
    assert not running


async def test_no_more_calls_of_a_stream_run_side_by_side_than_allowed() -> None:
    running, most, let_go = 0, 0, asyncio.Event()

    async def raw(_key: Any, request: Any, **_: Any) -> AsyncGenerator[Any, None]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await let_go.wait()
        running -= 1
        yield service_pb2.ModelInferResponse(id=request.id)

    async def read() -> list[str]:
        stream = Servicer(raw).ModelStreamInfer(requests("a", "b", "c", "d"), None)
        return [answer.infer_response.id async for answer in stream]

    reading = asyncio.create_task(read())
    await until(lambda: running == 2)
    let_go.set()
    assert sorted(await reading) == ["a", "b", "c", "d"]
    assert most == 2
