"""One call from admission to its record, however it ends: a scripted instance, a real journal."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from modelyard.catalog.v1 import catalog_pb2
from modelyard.type.v1 import money_pb2, usage_pb2
from tritonclient.grpc import service_pb2

from services.inference.backends.words import NothingRead
from services.inference.domain.calls import Message, Sampling
from services.inference.domain.errors import (
    EngineFailed,
    EngineTimeout,
    JournalFull,
    NoReadyInstance,
    RequestInvalid,
    TaskNotSupported,
)
from services.inference.usecases.generation import Generation
from tests.unit.inference.build import a_deployment, a_piece, a_route, calls_with, until

HELLO = [Message("user", "hello")]
BROKEN = EngineFailed("the instance broke")
COMPLETED, CANCELLED, INTERRUPTED, FAILED, TIMED_OUT = (
    usage_pb2.OUTCOME_COMPLETED,
    usage_pb2.OUTCOME_CANCELLED,
    usage_pb2.OUTCOME_INTERRUPTED,
    usage_pb2.OUTCOME_FAILED,
    usage_pb2.OUTCOME_TIMED_OUT,
)


async def a_chat(setup: SimpleNamespace) -> Generation:
    return await setup.calls.chat(setup.key, "chat", HELLO, Sampling())  # type: ignore[no-any-return]


async def read(generation: Generation) -> list[str]:
    return [piece async for piece in generation.pieces()]


async def settled(setup: SimpleNamespace, seq: int = 1) -> tuple[int, int, int]:
    """(outcome, input tokens, output tokens) of a call, once it is durable."""
    await until(lambda: seq in setup.journal.settled)
    record = setup.journal.settled[seq]
    amounts = {one.meter: one.value for one in record.quantities}
    return record.outcome, amounts[money_pb2.METER_INPUT_TOKENS], amounts[money_pb2.METER_OUTPUT_TOKENS]


async def test_a_whole_answer_is_billed_as_counted(tmp_path: Path) -> None:
    async with calls_with(tmp_path, a_piece("", 0), a_piece("one ", 2), a_piece("two", 3, "stop")) as setup:
        generation = await a_chat(setup)
        assert await read(generation) == ["one ", "two"]
        assert await settled(setup) == (COMPLETED, 7, 5)
        assert (generation.usage.output_tokens, generation.finish_reason) == (5, "stop")


async def test_when_the_answer_has_ended_its_record_is_durable(tmp_path: Path) -> None:
    async with calls_with(tmp_path, a_piece("all", 1, "stop")) as setup:
        await read(await a_chat(setup))
        assert setup.journal.settled.keys() == {1}


async def test_a_client_that_leaves_pays_for_what_was_processed(tmp_path: Path) -> None:
    """The piece that was on its way to it included, and the engine's work ends before the call does."""
    async with calls_with(tmp_path, a_piece("one", 2), a_piece("two", 3), asyncio.Event()) as setup:
        pieces = (await a_chat(setup)).pieces()
        assert [await anext(pieces), await anext(pieces)] == ["one", "two"]
        await pieces.aclose()
        assert not setup.backend.is_running
        assert setup.journal.running_count == 0
        assert await settled(setup) == (CANCELLED, 7, 5)


async def test_a_client_that_leaves_while_it_waits_pays_for_what_was_processed(tmp_path: Path) -> None:
    async with calls_with(tmp_path, a_piece("one", 2), asyncio.Event()) as setup:
        started = asyncio.Event()

        async def client() -> None:
            async for _ in (await a_chat(setup)).pieces():
                started.set()

        task = asyncio.create_task(client())
        await started.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not setup.backend.is_running
        assert await settled(setup) == (CANCELLED, 7, 2)


async def test_a_call_that_our_stop_cuts_pays_for_what_was_delivered(tmp_path: Path) -> None:
    """The second piece never left."""
    async with calls_with(tmp_path, a_piece("one", 2), a_piece("two", 3), asyncio.Event()) as setup:
        pieces = (await a_chat(setup)).pieces()
        assert [await anext(pieces), await anext(pieces)] == ["one", "two"]
        setup.calls.stopping = True
        await pieces.aclose()
        assert await settled(setup) == (INTERRUPTED, 7, 2)


async def test_a_call_that_our_stop_cuts_before_any_output_is_free(tmp_path: Path) -> None:
    async with calls_with(tmp_path, a_piece("", 0), asyncio.Event()) as setup:
        task = asyncio.create_task(read(await a_chat(setup)))
        await until(lambda: setup.backend.is_running)
        setup.calls.stopping = True
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await settled(setup) == (FAILED, 0, 0)


async def test_an_instance_that_breaks_costs_what_was_delivered(tmp_path: Path) -> None:
    async with calls_with(tmp_path, a_piece("one", 2), BROKEN) as setup:
        generation = await a_chat(setup)
        with pytest.raises(EngineFailed):
            await read(generation)
        assert await settled(setup) == (INTERRUPTED, 7, 2)


@pytest.mark.parametrize("first", [[], [a_piece("", 0)]], ids=["nothing", "the prompt's length"])
async def test_an_instance_that_breaks_before_any_output_costs_nothing(tmp_path: Path, first: list[Any]) -> None:
    async with calls_with(tmp_path, *first, BROKEN) as setup:
        with pytest.raises(EngineFailed):
            await read(await a_chat(setup))
        assert await settled(setup) == (FAILED, 0, 0)


async def test_an_answer_that_leaves_as_a_whole_is_free_when_its_instance_breaks(tmp_path: Path) -> None:
    """What was produced by then never reached anybody."""
    async with calls_with(tmp_path, a_piece("one", 2), BROKEN) as setup:
        with pytest.raises(EngineFailed):
            [piece async for piece in (await a_chat(setup)).pieces(leave_at_once=False)]
        assert await settled(setup) == (FAILED, 0, 0)


async def test_an_answer_that_leaves_as_a_whole_is_billed_as_counted(tmp_path: Path) -> None:
    async with calls_with(tmp_path, a_piece("one ", 2), a_piece("two", 3, "stop")) as setup:
        assert [piece async for piece in (await a_chat(setup)).pieces(leave_at_once=False)] == ["one ", "two"]
        assert await settled(setup) == (COMPLETED, 7, 5)


async def test_a_crash_of_ours_before_any_output_costs_nothing(tmp_path: Path) -> None:
    """So the journal knows of no tokens until one has left."""
    async with calls_with(tmp_path, a_piece("", 0), a_piece("one", 2), asyncio.Event()) as setup:
        pieces = (await a_chat(setup)).pieces()
        await anext(pieces)
        assert not [entry.progressed for entry in setup.journal._open.values() if entry.progressed]
        await pieces.aclose()


async def test_a_call_that_takes_too_long_pays_for_what_was_processed(tmp_path: Path) -> None:
    async with calls_with(tmp_path, a_piece("one", 2), asyncio.Event(), call_s_max=0.05) as setup:
        with pytest.raises(EngineTimeout, match=r"longer than 0\.05 s"):
            await read(await a_chat(setup))
        assert await settled(setup) == (TIMED_OUT, 7, 2)


async def test_a_call_whose_client_reads_too_slowly_has_timed_out(tmp_path: Path) -> None:
    """The deadline comes while the piece is on its way: the client did not leave."""
    async with calls_with(tmp_path, a_piece("one", 2), asyncio.Event(), call_s_max=0.05) as setup:
        pieces = (await a_chat(setup)).pieces()
        await anext(pieces)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()
        await pieces.aclose()
        assert await settled(setup) == (TIMED_OUT, 7, 2)


async def test_an_instance_that_falls_silent_has_timed_out(tmp_path: Path) -> None:
    async with calls_with(tmp_path, a_piece("one", 2), EngineTimeout("silent")) as setup:
        with pytest.raises(EngineTimeout):
            await read(await a_chat(setup))
        assert await settled(setup) == (TIMED_OUT, 7, 2)


async def test_the_last_word_of_a_broken_call_waits_for_its_record(tmp_path: Path) -> None:
    """An error is the last that the client hears, so the record is durable before."""
    async with calls_with(tmp_path, a_piece("one", 2), BROKEN) as setup:
        with pytest.raises(EngineFailed):
            await read(await a_chat(setup))
        assert setup.journal.settled.keys() == {1}


async def test_an_instance_that_cannot_be_reached_is_asked_twice_and_then_named(tmp_path: Path) -> None:
    async with calls_with(tmp_path, NothingRead("gone")) as setup:
        with pytest.raises(NoReadyInstance, match="'chat' could be reached"):
            await read(await a_chat(setup))
        assert await settled(setup) == (FAILED, 0, 0)


async def test_a_full_journal_admits_nothing(tmp_path: Path) -> None:
    async with calls_with(tmp_path, a_piece("one", 2, "stop")) as setup:
        setup.journal._broken = "no space"
        with pytest.raises(JournalFull):
            await read(await a_chat(setup))
        assert (setup.journal.last_seq, setup.backend.is_running) == (0, False)


async def test_a_generation_nobody_reads_is_not_admitted(tmp_path: Path) -> None:
    async with calls_with(tmp_path, a_piece("one", 2, "stop")) as setup:
        await a_chat(setup)
        assert setup.journal.last_seq == 0


async def test_a_model_is_asked_for_what_it_does(tmp_path: Path) -> None:
    async with calls_with(tmp_path) as setup:
        setup.bus.tell("routes", "endpoint-chat", a_route("chat", a_deployment(tasks=[])))
        with pytest.raises(TaskNotSupported):
            await a_chat(setup)
        with pytest.raises(TaskNotSupported):
            await setup.calls.embed(setup.key, "chat", ["1"])
        assert setup.journal.last_seq == 0


async def test_a_template_that_nobody_looked_at_is_rendered_apart(tmp_path: Path) -> None:
    """To the same prompt; what it does there it does before the call is admitted."""
    async with calls_with(tmp_path, a_piece("one", 2, "stop")) as setup:

        def serve(template: str) -> None:
            serving = catalog_pb2.Serving(chat_template=template, untrusted_template=True)
            setup.bus.tell("routes", "endpoint-chat", a_route("chat", a_deployment(serving=serving)))

        serve("{{ raise_exception('no') }}")
        with pytest.raises(RequestInvalid, match="does not take these messages"):
            await a_chat(setup)
        assert setup.journal.last_seq == 0
        serve("{{ messages[0].content }}")
        assert await read(await a_chat(setup)) == ["one"]


# Embeddings


async def test_more_texts_than_an_engine_takes_are_asked_in_parts_and_recorded_once(tmp_path: Path) -> None:
    async with calls_with(tmp_path) as setup:
        answer = await setup.calls.embed(setup.key, "chat", [str(number) for number in range(150)])
        assert setup.backend.asked == [64, 64, 22]
        assert [int.from_bytes(row, "little") for row in answer.rows] == list(range(150))
        assert answer.input_tokens == 450
        assert await settled(setup) == (COMPLETED, 450, 0)
        assert setup.journal.last_seq == 1


async def test_an_embedding_that_breaks_half_way_costs_nothing(tmp_path: Path) -> None:
    """The answer leaves as a whole, so nothing was delivered."""
    async with calls_with(tmp_path, asyncio.Event(), BROKEN) as setup:
        setup.backend.script[0].set()
        with pytest.raises(EngineFailed):
            await setup.calls.embed(setup.key, "chat", ["1"] * 65)
        assert await settled(setup) == (FAILED, 0, 0)


async def test_an_embedding_whose_client_leaves_costs_the_parts_that_were_read(tmp_path: Path) -> None:
    first = asyncio.Event()
    first.set()
    async with calls_with(tmp_path, first, asyncio.Event()) as setup:
        task = asyncio.create_task(setup.calls.embed(setup.key, "chat", ["1"] * 65))
        await until(lambda: len(setup.backend.asked) == 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await settled(setup) == (CANCELLED, 192, 0)


async def test_an_embedding_that_takes_too_long_costs_the_parts_that_were_read(tmp_path: Path) -> None:
    first = asyncio.Event()
    first.set()
    async with calls_with(tmp_path, first, asyncio.Event(), call_s_max=0.05) as setup:
        with pytest.raises(EngineTimeout, match="send fewer texts"):
            await setup.calls.embed(setup.key, "chat", ["1"] * 65)
        assert await settled(setup) == (TIMED_OUT, 192, 0)


async def test_other_dimensions_than_the_models_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    async with calls_with(tmp_path) as setup:
        with pytest.raises(RequestInvalid, match="dimensions is 3; the model gives 2"):
            await setup.calls.embed(setup.key, "chat", ["1"], dimensions=3)
        assert (setup.journal.last_seq, setup.backend.asked) == (0, [])


def a_raw_call(setup: SimpleNamespace) -> Any:
    setup.bus.tell("routes", "endpoint-chat", a_route(serverless=False))
    return setup.calls.infer(setup.key, service_pb2.ModelInferRequest(model_name="chat", id="theirs"))


async def test_a_raw_answer_has_the_names_of_its_request_and_a_durable_record(tmp_path: Path) -> None:
    """The engine is asked by names of its own."""
    async with calls_with(tmp_path) as setup:
        answer = await a_raw_call(setup)
        record = setup.journal.settled[1]
        assert setup.backend.asked_raw == ("model", record.id)
        assert (answer.model_name, answer.id) == ("chat", "theirs")
        assert await settled(setup) == (COMPLETED, 0, 5)


@pytest.mark.parametrize(("error", "told"), [(BROKEN, EngineFailed), (NothingRead("away"), NoReadyInstance)])
async def test_a_raw_call_that_fails_is_free(tmp_path: Path, error: Exception, told: type[Exception]) -> None:
    async with calls_with(tmp_path, error) as setup:
        with pytest.raises(told):
            await a_raw_call(setup)
        assert await settled(setup) == (FAILED, 0, 0)
        assert setup.journal.running_count == 0


@pytest.mark.parametrize(("stopping", "outcome"), [(False, CANCELLED), (True, FAILED)])
async def test_a_raw_call_that_is_cut_has_one_record(tmp_path: Path, stopping: bool, outcome: int) -> None:
    """By its client, or by our stop."""
    async with calls_with(tmp_path, asyncio.Event()) as setup:
        task = asyncio.create_task(a_raw_call(setup))
        await until(lambda: setup.backend.is_running)
        setup.calls.stopping = stopping
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await settled(setup) == (outcome, 0, 0)


async def test_a_raw_answer_leaves_only_when_the_disk_has_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails is tried again; nothing is answered before, and new calls are refused."""
    async with calls_with(tmp_path) as setup:
        with monkeypatch.context() as failure:
            failure.setattr(os, "fdatasync", Mock(side_effect=OSError("no space")))
            answer = asyncio.create_task(a_raw_call(setup))
            await until(lambda: setup.journal.refusing)
            with pytest.raises(JournalFull):
                await a_raw_call(setup)
            assert not answer.done()
        assert (await answer).id == "theirs"
        assert await settled(setup) == (COMPLETED, 0, 5)


async def test_a_raw_call_whose_opening_fails_before_its_answer_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = asyncio.Event()
    async with calls_with(tmp_path, answer) as setup:
        with monkeypatch.context() as failure:
            failure.setattr(os, "fdatasync", Mock(side_effect=OSError("no space")))
            call = asyncio.create_task(a_raw_call(setup))
            await until(lambda: setup.journal.refusing)
            answer.set()
            with pytest.raises(JournalFull):
                await call
        assert await settled(setup) == (FAILED, 0, 0)
