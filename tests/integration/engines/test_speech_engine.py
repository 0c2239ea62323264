"""The speech engine on a real Triton with a real model."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import wave
from contextlib import aclosing
from pathlib import Path

import pytest

from engines.refusals import read_refusal
from engines.token_log import read_token_log
from services.catalog.sources.content_files import SHIPPED
from tests.infra.instances import EngineClient, EngineRefused, bytes_elements, first_text, wait_until

SPEECH = (SHIPPED / "samples" / "every-call.wav").read_bytes()
SOUNDS = Path(__file__).with_name("sounds")


def wav(frames: bytes, rate: int = 16_000) -> bytes:
    """One channel of 16 bits."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(frames)
    return content.getvalue()


# Of what repeats itself the model would make sense only at the sixth try; one is enough to count.
ONE_TRY = 0.1


def repeated(times: int) -> bytes:
    """The sample, said again and again."""
    with wave.open(io.BytesIO(SPEECH)) as file:
        return wav(file.readframes(file.getnframes()) * times)


def milliseconds(answer: dict[str, bytes]) -> int:
    return struct.unpack("<q", answer["AUDIO_MILLISECONDS"])[0]


def text_of(answers: list[dict[str, bytes]]) -> str:
    segments = [json.loads(said) for answer in answers for said in bytes_elements(answer["SEGMENTS"])]
    return "".join(segment["text"] for segment in segments).strip()


def logged(engine: EngineClient, request_id: str) -> dict[str, int | str] | None:
    lines = read_token_log(Path(engine.view.handle["folder"]) / "tokens.jsonl")
    return next((line for line in lines if line["request_id"] == request_id), None)


async def test_speech_becomes_its_words(speech_engine: EngineClient) -> None:
    """With a segment's place, and the length of the audio to the millisecond; the engine's own log agrees."""
    answers = await speech_engine.transcribe(SPEECH, request_id="said")
    assert text_of(answers) == "Every call makes exactly one usage record."
    assert [first_text(answer["FINISH_REASON"]) for answer in answers] == ["stop"]
    assert first_text(answers[0]["LANGUAGE"]) == "en"
    segment = json.loads(bytes_elements(answers[0]["SEGMENTS"])[0])
    assert 0 <= segment["start"] < 0.5
    assert 2.5 < segment["end"] <= 3.33
    # 53,200 samples at 16,000 a second.
    assert milliseconds(answers[0]) == 3_325
    line = logged(speech_engine, "said")
    assert line is not None
    assert (line["audio_milliseconds"], line["end"]) == (3_325, "stop")


async def test_a_long_file_comes_window_by_window_and_adds_up(speech_engine: EngineClient) -> None:
    """The next window begins where the last one's words end; the parts sum to the file's length."""
    answers = await speech_engine.transcribe(repeated(12), temperature=ONE_TRY)
    assert len(answers) >= 2
    assert [first_text(answer["FINISH_REASON"]) for answer in answers] == ["None"] * (len(answers) - 1) + ["stop"]
    assert sum(map(milliseconds, answers)) == 12 * 3_325
    seeks = [json.loads(said)["seek"] for answer in answers for said in bytes_elements(answer["SEGMENTS"])]
    assert seeks == sorted(seeks)


async def test_silence_has_a_length_and_may_have_no_words(speech_engine: EngineClient) -> None:
    """What was looked at counts, whether or not somebody spoke."""
    answers = await speech_engine.transcribe(wav(bytes(2 * 16_000)))
    assert sum(map(milliseconds, answers)) == 1_000


@pytest.mark.parametrize(
    ("name", "length_ms"),
    [
        ("tone.flac", 500),
        # Encoders of these two add a little at the ends.
        ("tone.mp3", pytest.approx(500, abs=60)),
        ("tone.ogg", pytest.approx(500, abs=5)),
        ("tone-8-bit.wav", 500),
        ("tone-24-bit.wav", 200),
        ("tone-float.wav", 100),
    ],
)
async def test_every_format_is_heard_at_its_length(speech_engine: EngineClient, name: str, length_ms: int) -> None:
    answers = await speech_engine.transcribe((SOUNDS / name).read_bytes())
    assert sum(map(milliseconds, answers)) == length_ms


@pytest.mark.parametrize(
    ("audio", "reason", "facts"),
    [
        (b"", "AUDIO_UNREADABLE", {"allowed": "wav,flac,mp3,ogg"}),
        (b"not a sound at all", "AUDIO_UNREADABLE", {"allowed": "wav,flac,mp3,ogg"}),
        (SPEECH[:40], "AUDIO_UNREADABLE", {"allowed": "wav,flac,mp3,ogg"}),
        (b"ID3" + bytes(200), "AUDIO_UNREADABLE", {"allowed": "wav,flac,mp3,ogg"}),
        (wav(bytes(2 * 1_599)), "AUDIO_TOO_SHORT", {"milliseconds": "99", "milliseconds_min": "100"}),
        (wav(bytes(2 * 4_000), rate=4_000), "INVALID_PARAMETER", {"name": "sample_rate", "allowed": "8000..48000"}),
        (wav(bytes(2 * 96_000), rate=96_000), "INVALID_PARAMETER", {"name": "sample_rate", "allowed": "8000..48000"}),
        (repeated(31), "AUDIO_TOO_LONG", {"seconds_max": "100"}),
    ],
)
async def test_what_is_no_speech_file_is_refused_with_the_reason(
    speech_engine: EngineClient, audio: bytes, reason: str, facts: dict[str, str]
) -> None:
    with pytest.raises(EngineRefused) as refused:
        await speech_engine.transcribe(audio, request_id=f"refused-{reason}-{len(audio)}")
    assert read_refusal(str(refused.value)) == (reason, facts)
    line = logged(speech_engine, f"refused-{reason}-{len(audio)}")
    assert line is not None
    assert (line["audio_milliseconds"], line["end"]) == (0, "refused")


async def test_a_small_file_that_unfolds_into_a_long_sound_is_refused_on_the_way(speech_engine: EngineClient) -> None:
    """Decoding stops where the limit is passed."""
    with pytest.raises(EngineRefused, match="AUDIO_TOO_LONG seconds_max=100"):
        await speech_engine.transcribe((SOUNDS / "ten-minutes-of-silence.flac").read_bytes())


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"language": "de"}, "INVALID_PARAMETER name=language allowed=en"),
        ({"temperature": 1.5}, "INVALID_PARAMETER name=temperature allowed=0..1"),
        ({"prompt": "x" * 4097}, "INVALID_PARAMETER name=prompt"),
        ({"beam": 9}, "UNKNOWN_PARAMETER"),
    ],
)
async def test_parameters_have_ranges(speech_engine: EngineClient, parameters: dict[str, object], said: str) -> None:
    with pytest.raises(EngineRefused, match=said):
        await speech_engine.transcribe(SPEECH, **parameters)


async def test_a_prompt_and_a_temperature_are_taken(speech_engine: EngineClient) -> None:
    answers = await speech_engine.transcribe(SPEECH, prompt="Billing, usage, records.", temperature=0.2, language="en")
    assert "usage record" in text_of(answers).lower()


async def test_a_caller_who_leaves_ends_the_work(speech_engine: EngineClient) -> None:
    """At the end of the window that runs; the log has what was heard by then."""
    async with aclosing(speech_engine.transcribing(repeated(30), request_id="left", temperature=ONE_TRY)) as answers:
        heard = milliseconds(await anext(answers))
    await wait_until(lambda: logged(speech_engine, "left") is not None)
    line = logged(speech_engine, "left")
    assert line is not None
    assert line["end"] == "cancelled"
    assert heard <= int(line["audio_milliseconds"]) < 30 * 3_325


async def test_a_full_queue_refuses_and_a_short_file_does_not_wait_for_long_ones(speech_engine: EngineClient) -> None:
    """One is heard, two wait, the next is refused; all that were taken are answered."""
    calls = [asyncio.create_task(speech_engine.transcribe(repeated(12), temperature=ONE_TRY)) for _ in range(16)]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    refused = [str(one) for one in ended if isinstance(one, EngineRefused)]
    assert refused, ended
    assert all(read_refusal(said) == ("ENGINE_BUSY", {"waiting": "2", "waiting_max": "2"}) for said in refused)
    answered = [one for one in ended if isinstance(one, list)]
    assert len(answered) + len(refused) == 16
    assert all(sum(map(milliseconds, answers)) == 12 * 3_325 for answers in answered)
