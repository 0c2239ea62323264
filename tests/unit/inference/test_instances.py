"""Which instance takes a call when the first one does not: scripted instances, a real journal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from modelyard.deploy.v1 import routes_pb2
from tritonclient.grpc import service_pb2

from services.inference.backends.words import NothingRead
from services.inference.domain.calls import Message, Sampling
from services.inference.domain.errors import EngineBusy, NoReadyInstance
from tests.unit.inference.build import a_deployment, a_piece, a_route, calls_with

AWAY = NothingRead("failed to connect")
FULL = EngineBusy("8 calls wait at the instance; 8 are allowed: try again later", retry_after_s=1.0)
Way = Callable[[SimpleNamespace], Awaitable[Any]]


async def chat(setup: SimpleNamespace) -> list[str]:
    answer = await setup.calls.chat(setup.key, "chat", [Message("user", "hello")], Sampling())
    return [piece async for piece in answer.pieces()]


async def embed(setup: SimpleNamespace) -> Any:
    return await setup.calls.embed(setup.key, "chat", ["1"])


async def infer(setup: SimpleNamespace) -> Any:
    return await setup.calls.infer(setup.key, service_pb2.ModelInferRequest(model_name="chat"))


async def raw(setup: SimpleNamespace) -> list[Any]:
    request = service_pb2.ModelInferRequest(model_name="chat")
    return [response async for response in setup.calls.raw(setup.key, request)]


WAYS: list[Way] = [chat, embed, infer, raw]


def with_instances(setup: SimpleNamespace, **not_taken: Exception | None) -> None:
    """Give the endpoint these instances, and what each raises instead of taking a call."""
    targets = [
        routes_pb2.RouteTarget(instance_uid=uid, address=f"{uid}:1", model_name=f"model-of-{uid}") for uid in not_taken
    ]
    setup.bus.tell("routes", "endpoint-chat", a_route("chat", a_deployment(targets=targets), serverless=False))
    setup.backend.not_taken = {uid: error for uid, error in not_taken.items() if error is not None}


def script_of(way: Way) -> list[Any]:
    return [a_piece("all", 2, "stop")] if way is chat else []


@pytest.mark.parametrize("not_taken", [AWAY, FULL], ids=["away", "full"])
@pytest.mark.parametrize("way", WAYS)
async def test_another_instance_answers_and_the_call_is_recorded_once(
    tmp_path: Path, way: Way, not_taken: Exception
) -> None:
    """Equals take turns, so at least one of two calls meets the instance that does not take it."""
    async with calls_with(tmp_path, *script_of(way)) as setup:
        with_instances(setup, one=None, two=not_taken)
        for _ in range(2):
            assert await way(setup)
        assert setup.backend.asked_instances.count("one") == 2
        assert "two" in setup.backend.asked_instances
        assert setup.journal.last_seq == 2
        assert not setup.backend._in_flight


async def test_the_instance_that_answers_is_asked_for_its_own_model(tmp_path: Path) -> None:
    async with calls_with(tmp_path) as setup:
        with_instances(setup, one=AWAY, two=None)
        for _ in range(2):
            assert (await infer(setup)).model_name == "chat"
            assert setup.backend.asked_raw[0] == "model-of-two"


@pytest.mark.parametrize(("not_taken", "told"), [(AWAY, NoReadyInstance), (FULL, EngineBusy)], ids=["away", "full"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_call_that_no_instance_takes_is_refused_after_two_attempts(
    tmp_path: Path, way: Way, not_taken: Exception, told: type[Exception]
) -> None:
    async with calls_with(tmp_path, *script_of(way)) as setup:
        with_instances(setup, one=not_taken, two=not_taken, three=not_taken)
        with pytest.raises(told):
            await way(setup)
        assert len(set(setup.backend.asked_instances)) == len(setup.backend.asked_instances) == 2


@pytest.mark.parametrize("way", WAYS)
async def test_a_full_instance_without_another_is_asked_once(tmp_path: Path, way: Way) -> None:
    """One that is away may come back meanwhile; one that is full only gets fuller."""
    async with calls_with(tmp_path, *script_of(way)) as setup:
        with_instances(setup, one=FULL)
        with pytest.raises(EngineBusy):
            await way(setup)
        assert setup.backend.asked_instances == ["one"]


async def test_an_answer_that_has_begun_is_not_begun_again(tmp_path: Path) -> None:
    async with calls_with(tmp_path, a_piece("one", 2), AWAY) as setup:
        with_instances(setup, one=None, two=None)
        with pytest.raises(NoReadyInstance):
            await chat(setup)
        assert len(setup.backend.asked_instances) == 1
