"""Calls with audio and images."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from modelyard.catalog.v1 import catalog_pb2
from modelyard.deploy.v1 import routes_pb2

from services.inference.backends.media import Heard, Looked, hear, look
from services.inference.domain.media import Label, Listening, Segment, check_audio, check_images
from services.inference.domain.usage import Counts
from services.inference.usecases.calls import Calls
from services.inference.usecases.whole import WholeCall


@dataclass(frozen=True, slots=True)
class Transcribed:
    """What was said in a file; `audio_milliseconds` is the length of what was decoded."""

    id: str
    segments: tuple[Segment, ...]
    audio_milliseconds: int
    # ISO 639-1 code of what is spoken.
    language: str
    instance_uid: str

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(segment.text for segment in self.segments).strip()


@dataclass(frozen=True, slots=True)
class Classified:
    """What images show, one entry an image, order kept."""

    id: str
    labels: tuple[tuple[Label, ...], ...]
    images: int
    instance_uid: str


async def transcribe(
    calls: Calls, key: routes_pb2.KeyAccess, model: str, audio: bytes, listening: Listening
) -> Transcribed:
    """Transcribe a file; the record is durable when this returns.

    A caller who leaves pays for the audio that was read by then.

    Raises:
        Problem: refused, or failed and recorded at zero.
    """
    check_audio(audio, listening)
    destination = await calls.find(key, model, catalog_pb2.TASK_TRANSCRIPTION, "transcriptions")
    call = WholeCall(calls, key, destination, "transcribe")

    def listen(target: routes_pb2.RouteTarget) -> AsyncGenerator[Heard, None]:
        return hear(calls.backend, target, call.id, audio, listening.parameters())

    async def answer() -> Transcribed:
        segments, language = list[Segment](), ""
        async with aclosing(call.stream(listen)) as pieces:
            async for piece in pieces:
                call.read += Counts(audio_milliseconds=piece.audio_milliseconds)
                segments += piece.segments
                language = piece.language
        return Transcribed(call.id, tuple(segments), call.read.audio_milliseconds, language, call.instance_uid)

    return await call.run(answer, ask_for_less="send a shorter file")


async def classify_images(
    calls: Calls, key: routes_pb2.KeyAccess, model: str, images: Sequence[bytes], *, top_k: int
) -> Classified:
    """Classify images, all or none; the record is durable when this returns.

    Raises:
        Problem: refused, or failed and recorded at zero.
    """
    check_images(images, top_k)
    destination = await calls.find(key, model, catalog_pb2.TASK_IMAGE_CLASSIFICATION, "image classifications")
    call = WholeCall(calls, key, destination, "classify_images")

    async def ask(target: routes_pb2.RouteTarget) -> Looked:
        return await look(calls.backend, target, call.id, images, top_k=top_k, timeout_s=calls.limits.call_s_max)

    async def answer() -> Classified:
        looked = await call.ask(ask)
        call.read += Counts(images=looked.images)
        return Classified(call.id, looked.labels, looked.images, call.instance_uid)

    return await call.run(answer, ask_for_less="send fewer images")
