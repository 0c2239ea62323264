"""Calls with audio and images from admission to their record, however they end: scripted responses, a real journal."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from modelyard.catalog.v1 import catalog_pb2
from modelyard.type.v1 import money_pb2, usage_pb2
from tritonclient.grpc import service_pb2

from services.inference.backends.triton import TritonBackend
from services.inference.domain.errors import EngineFailed, EngineTimeout, MediaInvalid, RequestInvalid, TaskNotSupported
from services.inference.domain.media import Listening
from services.inference.usecases.media import Transcribed, classify_images, transcribe
from tests.unit.inference.build import a_deployment, a_route, calls_with, played, until

HEAR, LOOK = catalog_pb2.TASK_TRANSCRIPTION, catalog_pb2.TASK_IMAGE_CLASSIFICATION
AUDIO, IMAGES, REQUESTS = money_pb2.METER_AUDIO_MILLISECONDS, money_pb2.METER_IMAGES, money_pb2.METER_REQUESTS
COMPLETED, CANCELLED, FAILED, TIMED_OUT = (
    usage_pb2.OUTCOME_COMPLETED,
    usage_pb2.OUTCOME_CANCELLED,
    usage_pb2.OUTCOME_FAILED,
    usage_pb2.OUTCOME_TIMED_OUT,
)
Step = service_pb2.ModelInferResponse | Exception | asyncio.Event


def elements(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def response(**outputs: bytes) -> service_pb2.ModelInferResponse:
    made = service_pb2.ModelInferResponse()
    for name, content in outputs.items():
        made.outputs.add(name=name)
        made.raw_output_contents.append(content)
    return made


def window(text: str, milliseconds: int, finish_reason: str = "None") -> service_pb2.ModelInferResponse:
    """What a speech engine says of one window."""
    segment = {"seek": 0, "start": 0.0, "end": 1.5, "text": text, "tokens": [1], "temperature": 0.0}
    said = {**segment, "avg_logprob": -0.2, "compression_ratio": 1.1, "no_speech_prob": 0.1}
    return response(
        SEGMENTS=elements(json.dumps(said).encode()) if text else b"",
        AUDIO_MILLISECONDS=struct.pack("<q", milliseconds),
        LANGUAGE=elements(b"en"),
        FINISH_REASON=elements(finish_reason.encode()),
    )


def labels(*scores: float) -> service_pb2.ModelInferResponse:
    """What an image engine says of images with these two scores each."""
    return response(
        LABEL=elements(*[b"cat", b"dog"] * (len(scores) // 2)),
        SCORE=struct.pack(f"<{len(scores)}f", *scores),
        NUM_IMAGES=struct.pack("<i", 1) * (len(scores) // 2),
    )


class Engine(TritonBackend):
    """One instance that says these things in turn, and notes whether its work goes on."""

    def __init__(self, *script: Step) -> None:
        super().__init__(b"a secret of tests alone", token_timeout_s=5)
        self.script = script
        self.is_running = False
        self.asked: list[service_pb2.ModelInferRequest] = []

    async def raw_stream(self, target: Any, request: Any) -> AsyncGenerator[service_pb2.ModelInferResponse, None]:
        self.asked.append(request)
        self.is_running = True
        try:
            async for step in played(self.script):
                yield step
        finally:
            self.is_running = False

    async def raw_infer(self, target: Any, request: Any, *, timeout_s: float) -> service_pb2.ModelInferResponse:
        return await anext(self.raw_stream(target, request))


def answering(setup: SimpleNamespace, task: int, *script: Step) -> Engine:
    """Let an engine of one task answer behind the endpoint `chat`."""
    setup.bus.tell("routes", "endpoint-chat", a_route("chat", a_deployment(tasks=[task])))
    setup.calls.backend = Engine(*script)
    return setup.calls.backend


def hearing(setup: SimpleNamespace, **listening: Any) -> asyncio.Task[Transcribed]:
    return asyncio.ensure_future(transcribe(setup.calls, setup.key, "chat", b"RIFF", Listening(**listening)))


async def recorded(setup: SimpleNamespace) -> tuple[int, dict[int, int]]:
    """(outcome, amounts by meter) of the one call."""
    await until(lambda: 1 in setup.journal.settled)
    record = setup.journal.settled[1]
    return record.outcome, {one.meter: one.value for one in record.quantities}


async def test_windows_become_one_text_and_one_length(tmp_path: Path) -> None:
    """Those in which nobody spoke count, too; the record is durable when the answer is there."""
    async with calls_with(tmp_path) as setup:
        engine = answering(setup, HEAR, window(" One,", 30_000), window("", 30_000), window(" two.", 4_500, "stop"))
        heard = await hearing(setup, language="en", prompt="Numbers.")
        assert (heard.text, heard.audio_milliseconds, heard.language) == ("One, two.", 64_500, "en")
        assert setup.journal.settled.keys() == {1}
        outcome, amounts = await recorded(setup)
        assert (outcome, amounts[AUDIO], amounts[REQUESTS], IMAGES in amounts) == (COMPLETED, 64_500, 1, False)
        parameters = json.loads(engine.asked[0].raw_input_contents[1][4:])
        assert parameters == {"language": "en", "prompt": "Numbers."}


async def test_a_caller_who_leaves_pays_for_what_was_heard(tmp_path: Path) -> None:
    """And the engine's work ends before the call does."""
    async with calls_with(tmp_path) as setup:
        engine = answering(setup, HEAR, window("a", 30_000), window("b", 30_000), asyncio.Event())
        call = hearing(setup)
        await until(lambda: engine.is_running)
        call.cancel()
        await asyncio.wait({call})
        assert not engine.is_running
        outcome, amounts = await recorded(setup)
        assert (outcome, amounts[AUDIO]) == (CANCELLED, 60_000)


@pytest.mark.parametrize("broken", [EngineFailed("broken"), window("c", 0, "cancelled")])
async def test_a_transcription_that_breaks_on_the_way_costs_nothing(tmp_path: Path, broken: Step) -> None:
    """Nothing of it has left: also where the engine ended it by itself, as it does when it is unloaded."""
    async with calls_with(tmp_path) as setup:
        answering(setup, HEAR, window("a", 30_000), broken)
        with pytest.raises(EngineFailed):
            await hearing(setup)
        outcome, amounts = await recorded(setup)
        assert (outcome, amounts.get(AUDIO, 0), amounts[REQUESTS]) == (FAILED, 0, 0)


async def test_a_transcription_without_an_end_is_none(tmp_path: Path) -> None:
    async with calls_with(tmp_path) as setup:
        answering(setup, HEAR, window("a", 30_000))
        with pytest.raises(EngineFailed, match="ended the call before its answer"):
            await hearing(setup)


@pytest.mark.parametrize(
    ("script", "outcome", "paid"),
    [([window("a", 30_000), asyncio.Event()], TIMED_OUT, 30_000), ([asyncio.Event()], FAILED, 0)],
)
async def test_a_transcription_that_takes_too_long_pays_for_what_was_heard(
    tmp_path: Path, script: list[Step], outcome: int, paid: int
) -> None:
    async with calls_with(tmp_path, call_s_max=0.05) as setup:
        answering(setup, HEAR, *script)
        with pytest.raises(EngineTimeout, match="send a shorter file"):
            await hearing(setup)
        found, amounts = await recorded(setup)
        assert (found, amounts.get(AUDIO, 0)) == (outcome, paid)


async def test_a_file_that_the_engine_refuses_costs_nothing(tmp_path: Path) -> None:
    async with calls_with(tmp_path) as setup:
        answering(setup, HEAR, MediaInvalid("no audio"))
        with pytest.raises(MediaInvalid):
            await hearing(setup)
        assert (await recorded(setup))[0] == FAILED


async def test_images_keep_their_order_and_their_surest_labels(tmp_path: Path) -> None:
    async with calls_with(tmp_path) as setup:
        answering(setup, LOOK, labels(0.75, 0.25, 0.625, 0.375))
        seen = await classify_images(setup.calls, setup.key, "chat", [b"a", b"b"], top_k=1)
        assert [[(one.label, one.score) for one in image] for image in seen.labels] == [
            [("cat", 0.75)],
            [("cat", 0.625)],
        ]
        outcome, amounts = await recorded(setup)
        assert (outcome, amounts[IMAGES], AUDIO in amounts) == (COMPLETED, 2, False)


@pytest.mark.parametrize(
    ("audio", "listening", "said"),
    [
        (b"", {}, "file is empty"),
        (b"x", {"prompt": "x" * 4097}, "prompt has 4097 characters; at most 4096"),
        (b"x", {"language": "x" * 17}, "is no code such as 'en'"),
        (b"x", {"temperature": 1.01}, "temperature is 1.01; 0 to 1"),
        (b"x", {"temperature": float("nan")}, "temperature is nan"),
    ],
)
async def test_a_bad_transcription_is_refused_before_it_is_admitted(
    tmp_path: Path, audio: bytes, listening: dict[str, Any], said: str
) -> None:
    async with calls_with(tmp_path) as setup:
        answering(setup, HEAR)
        with pytest.raises(RequestInvalid, match=said):
            await transcribe(setup.calls, setup.key, "chat", audio, Listening(**listening))
        assert setup.journal.opened_count == 0


async def test_each_call_takes_models_of_its_own_task(tmp_path: Path) -> None:
    async with calls_with(tmp_path) as setup:
        answering(setup, LOOK)
        with pytest.raises(TaskNotSupported, match="does not answer transcriptions"):
            await hearing(setup)
        answering(setup, HEAR)
        with pytest.raises(TaskNotSupported, match="does not answer image classifications"):
            await classify_images(setup.calls, setup.key, "chat", [b"a"], top_k=5)
        assert setup.journal.opened_count == 0
