"""Measure how fast a deployed model answers: one client, streaming where the model does, a trial at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from modelyard.inference.v1 import inference_pb2
from modelyard_client import Modelyard, ModelyardError

# Plain words, about one token each in most vocabularies; the first answer tells how many they really were.
_WORDS = ("the", "house", "by", "the", "river", "has", "a", "green", "door", "and", "two", "windows", "over", "it")
_FAILED_SHARE_MAX = 0.5


@dataclass(frozen=True)
class Protocol:
    """What is done. Azure's published protocol is 336 trials an hour apart with 2 requests each, 800 in, 200 out."""

    trials: int = 3
    requests_per_trial: int = 2
    interval_s: int = 0
    input_tokens: int = 800
    output_tokens: int = 200

    @property
    def request_count(self) -> int:
        return self.trials * self.requests_per_trial


@dataclass(frozen=True)
class Timing:
    """One request; of tokens, seconds of audio and images only what the model counts is above 0.

    `first_s` is None where the answer does not stream.
    """

    latency_s: float
    first_s: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    audio_s: float = 0.0
    images: int = 0


# One request to an endpoint, told apart from the others by a word.
Ask = Callable[[str], Awaitable[Timing]]


@dataclass
class Measured:
    """All requests of a run."""

    timings: list[Timing] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """As `modelyard.catalog.v1.PerformanceRun` names them."""
        latencies = sorted(timing.latency_s for timing in self.timings)
        found = {
            "latency_mean_s": fmean(latencies),
            "latency_p50_s": percentile(latencies, 0.5),
            "latency_p90_s": percentile(latencies, 0.9),
            "latency_p95_s": percentile(latencies, 0.95),
            "latency_p99_s": percentile(latencies, 0.99),
        }
        if any(timing.input_tokens for timing in self.timings):
            found |= self._tokens(found["latency_p50_s"])
        rates = {
            "audio_s_per_s": fmean(timing.audio_s / timing.latency_s for timing in self.timings),
            "images_per_s": fmean(timing.images / timing.latency_s for timing in self.timings),
        }
        return found | {name: rate for name, rate in rates.items() if rate}

    def _tokens(self, p50_s: float) -> dict[str, float]:
        """Without streaming the first token comes at p50."""
        firsts = sorted(timing.first_s for timing in self.timings if timing.first_s is not None)
        found = {
            "first_token_mean_s": fmean(firsts) if firsts else p50_s,
            "first_token_p50_s": percentile(firsts, 0.5) if firsts else p50_s,
            "first_token_p99_s": percentile(firsts, 0.99) if firsts else p50_s,
            "total_tokens_per_s": fmean(
                (timing.input_tokens + timing.output_tokens) / timing.latency_s for timing in self.timings
            ),
        }
        gaps = [
            (timing.latency_s - timing.first_s) / (timing.output_tokens - 1)
            for timing in self.timings
            if timing.first_s is not None and timing.output_tokens > 1
        ]
        if gaps:
            found["between_tokens_mean_s"] = fmean(gaps)
            found["generated_tokens_per_s"] = fmean(timing.output_tokens / timing.latency_s for timing in self.timings)
        return found


def percentile(ascending: Sequence[float], share: float) -> float:
    """The value below which a share (0 to 1) of the values lies, by linear interpolation."""
    place = share * (len(ascending) - 1)
    below = int(place)
    above = min(below + 1, len(ascending) - 1)
    return ascending[below] + (ascending[above] - ascending[below]) * (place - below)


class MeasuringFailed(Exception):
    """Too many requests failed for their figures to mean anything."""


async def measure(ask: Ask, protocol: Protocol, told: Callable[[int], None]) -> Measured:
    """Run the protocol; `ask` has warmed up.

    Args:
        told: Called with the number of requests done.

    Raises:
        MeasuringFailed: half of the requests failed.
    """
    measured = Measured()
    for trial in range(protocol.trials):
        began = time.monotonic()
        for request in range(protocol.requests_per_trial):
            try:
                measured.timings.append(await ask(f"{trial}.{request}"))
            except ModelyardError as refused:
                measured.failures.append(refused.reason)
            told(trial * protocol.requests_per_trial + request + 1)
        if trial + 1 < protocol.trials:
            await asyncio.sleep(max(0.0, protocol.interval_s - (time.monotonic() - began)))
    if len(measured.failures) > protocol.request_count * _FAILED_SHARE_MAX or not measured.timings:
        raise MeasuringFailed(
            f"{len(measured.failures)} of {protocol.request_count} requests failed ({', '.join(sorted(set(measured.failures)))})"
        )
    return measured


async def ask_chat(modelyard: Modelyard, endpoint: str, protocol: Protocol) -> Ask:
    """Chat completions of the protocol's lengths, streamed.

    Args:
        modelyard: With a key for the endpoint.
    """

    async def ask(prompt: str, output_tokens: int) -> Timing:
        request = inference_pb2.ChatCompletionRequest(
            model=endpoint,
            messages=[inference_pb2.ChatMessage(role="user", content=prompt)],
            max_tokens=output_tokens,
        )
        began, first_s, usage = time.perf_counter(), None, inference_pb2.Usage()
        async for piece in modelyard.inference.ChatCompletion(request):
            if first_s is None and piece.text:
                first_s = time.perf_counter() - began
            if piece.HasField("usage"):
                usage = piece.usage
        took_s = time.perf_counter() - began
        return Timing(took_s, first_s, usage.input_tokens, usage.output_tokens)

    words = await _words_for(protocol.input_tokens, lambda prompt: ask(prompt, 1))
    return lambda word: ask(f"{word} {_text(words)}", protocol.output_tokens)


async def ask_embedding(modelyard: Modelyard, endpoint: str, protocol: Protocol) -> Ask:
    """Embeddings of one text of the protocol's length."""

    async def ask(prompt: str) -> Timing:
        began = time.perf_counter()
        answer = await modelyard.inference.Embed(inference_pb2.EmbedRequest(model=endpoint, inputs=[prompt]))
        return Timing(time.perf_counter() - began, input_tokens=answer.usage.input_tokens)

    words = await _words_for(protocol.input_tokens, ask)
    return lambda word: ask(f"{word} {_text(words)}")


async def ask_transcription(modelyard: Modelyard, endpoint: str, audio: bytes) -> Ask:
    """Transcriptions of one recording, again and again."""
    request = inference_pb2.TranscribeRequest(model=endpoint, audio=audio)

    async def ask(_word: str) -> Timing:
        began = time.perf_counter()
        answer = await modelyard.inference.Transcribe(request)
        return Timing(time.perf_counter() - began, audio_s=answer.usage.audio_milliseconds / 1000)

    await ask("")
    return ask


async def ask_classification(modelyard: Modelyard, endpoint: str, image: bytes) -> Ask:
    """Labels of one image, again and again."""
    request = inference_pb2.ClassifyImagesRequest(model=endpoint, images=[image])

    async def ask(_word: str) -> Timing:
        began = time.perf_counter()
        answer = await modelyard.inference.ClassifyImages(request)
        return Timing(time.perf_counter() - began, images=answer.usage.images)

    await ask("")
    return ask


async def _words_for(tokens: int, ask: Ask) -> int:
    """How many words make about so many input tokens for a model; one short request finds out, and warms up.

    Each prompt begins in its own way, so that none is answered from what is kept of another.
    """
    probe = max(1, tokens // 4)
    seen = await ask(_text(probe))
    return max(1, round(probe * tokens / max(1, seen.input_tokens)))


def _text(words: int) -> str:
    return " ".join(_WORDS[number % len(_WORDS)] for number in range(words))
