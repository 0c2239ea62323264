"""Audio and images over REST: OpenAI's transcriptions, and classifications of images in the same manner."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import PlainTextResponse, Response

from services.inference.domain.errors import RequestInvalid
from services.inference.domain.media import TOP_K_DEFAULT, Listening, Segment
from services.inference.http.answers import JsonResponse
from services.inference.http.bodies import WITHOUT_EFFECT, read_object
from services.inference.usecases.media import Classified, Transcribed

FIELDS_MAX = 32
FIELD_BYTES_MAX = 64 * 1024
_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
_TRANSCRIPTION = frozenset(
    {"model", "language", "prompt", "response_format", "temperature", "timestamp_granularities[]", "stream"}
)
_CLASSIFICATION = frozenset({"model", "top_k"})
# As OpenAI's answers name them.
_LANGUAGES = {"en": "english"}


@dataclass(frozen=True, slots=True)
class Form:
    """A multipart body: texts and files by field, in order."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TranscriptionBody:
    """A transcription request, checked for types; ranges are the domain's."""

    model: str
    audio: bytes
    listening: Listening
    response_format: str


@dataclass(frozen=True, slots=True)
class ClassificationBody:
    """A classification request, checked for types; ranges are the domain's."""

    model: str
    images: list[bytes]
    top_k: int


class _InMemory(MultiPartParser):
    """Files of callers are never written to a disk; the body's limit bounds them."""

    spool_max_size = 1 << 62


async def read_form(headers: Headers, stream: AsyncGenerator[bytes, None], *, files_max: int) -> Form:
    """A multipart body.

    Raises:
        RequestInvalid: another content type, a malformed body, or more fields or files than are taken.
    """
    kind = headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        raise RequestInvalid(f"content-type is {kind[:64]!r}; send multipart/form-data", field="content-type")
    parser = _InMemory(headers, stream, max_files=files_max, max_fields=FIELDS_MAX, max_part_size=FIELD_BYTES_MAX)
    try:
        found = await parser.parse()
    except MultiPartException as malformed:
        raise RequestInvalid(f"the multipart body is not taken: {malformed.message}") from None
    form = Form()
    for name, value in found.multi_items():
        if isinstance(value, UploadFile):
            form.files.setdefault(name, []).append(await value.read())
        else:
            form.texts.setdefault(name, []).append(value)
    await found.close()
    return form


def read_transcription(form: Form) -> TranscriptionBody:
    """OpenAI's transcription request.

    Raises:
        RequestInvalid: a field that is missing, not taken, or has another value than is taken.
    """
    given = _single_texts(form, _TRANSCRIPTION)
    response_format = given.get("response_format", "json")
    if response_format not in _FORMATS:
        raise RequestInvalid(
            f"response_format is {response_format[:32]!r}; {', '.join(_FORMATS)} are allowed", field="response_format"
        )
    if given.get("stream", "false").lower() != "false":
        raise RequestInvalid("stream is not false; a transcription comes as a whole", field="stream")
    granularities = form.texts.get("timestamp_granularities[]", [])
    if set(granularities) - {"segment"}:
        raise RequestInvalid(
            f"timestamp_granularities is {granularities[0][:32]!r}; segment is allowed", field="timestamp_granularities"
        )
    listening = Listening(
        language=given.get("language", ""),
        prompt=given.get("prompt", ""),
        temperature=_number(given, "temperature", float),
    )
    return TranscriptionBody(_model(given), _files(form, ("file",), "file")[0], listening, response_format)


def read_classification_form(form: Form) -> ClassificationBody:
    """A classification request with its images as files.

    Raises:
        RequestInvalid: see `read_transcription`.
    """
    given = _single_texts(form, _CLASSIFICATION)
    top_k = _number(given, "top_k", int)
    images = _files(form, ("image", "image[]"), "image")
    return ClassificationBody(_model(given), images, TOP_K_DEFAULT if top_k is None else top_k)


class _ClassificationJson(msgspec.Struct, frozen=True):
    model: str
    image: str | list[str]
    top_k: int = TOP_K_DEFAULT


def read_classification_json(body: bytes) -> ClassificationBody:
    """A classification request with its images as base64 or `data:` URLs.

    Raises:
        RequestInvalid: see `read_transcription`.
    """
    asked = read_object(body, _CLASSIFICATION | {"image"}, _ClassificationJson)
    texts = [asked.image] if isinstance(asked.image, str) else asked.image
    return ClassificationBody(asked.model, [_decoded(text, index) for index, text in enumerate(texts)], asked.top_k)


def transcription_response(transcribed: Transcribed, response_format: str, headers: Mapping[str, str]) -> Response:
    """The answer in the form that was asked for."""
    if response_format in _TEXTS:
        return PlainTextResponse(_TEXTS[response_format](transcribed), headers=dict(headers))
    seconds = transcribed.audio_milliseconds / 1000
    usage = {"type": "duration", "seconds": seconds}
    if response_format == "json":
        return JsonResponse({"text": transcribed.text, "usage": usage}, headers=headers)
    content = {
        "task": "transcribe",
        "language": _LANGUAGES.get(transcribed.language, transcribed.language),
        "duration": seconds,
        "text": transcribed.text,
        "segments": [
            {"id": index, **{name: getattr(segment, name) for name in _SEGMENT_FIELDS}}
            for index, segment in enumerate(transcribed.segments)
        ],
        "usage": usage,
    }
    return JsonResponse(content, headers=headers)


def classification_response(classified: Classified, model: str, headers: Mapping[str, str]) -> Response:
    """Labels and probabilities, an entry an image, order kept."""
    data = [
        {
            "object": "image.classification",
            "index": index,
            "labels": [{"label": one.label, "score": one.score} for one in labels],
        }
        for index, labels in enumerate(classified.labels)
    ]
    content = {"object": "list", "data": data, "model": model, "usage": {"images": classified.images}}
    return JsonResponse(content, headers=headers)


_SEGMENT_FIELDS = tuple(Segment.__dataclass_fields__)


def _srt(transcribed: Transcribed) -> str:
    return "".join(
        f"{index}\n{_clock(segment.start, ',')} --> {_clock(segment.end, ',')}\n{segment.text.strip()}\n\n"
        for index, segment in enumerate(transcribed.segments, start=1)
    )


def _vtt(transcribed: Transcribed) -> str:
    return "WEBVTT\n\n" + "".join(
        f"{_clock(segment.start, '.')} --> {_clock(segment.end, '.')}\n{segment.text.strip()}\n\n"
        for segment in transcribed.segments
    )


_TEXTS: dict[str, Callable[[Transcribed], str]] = {
    "text": lambda transcribed: transcribed.text + "\n",
    "srt": _srt,
    "vtt": _vtt,
}


def _clock(seconds: float, point: str) -> str:
    """`HH:MM:SS` and milliseconds after `point`."""
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"


def _single_texts(form: Form, taken: frozenset[str]) -> dict[str, str]:
    """Text fields by name.

    Raises:
        RequestInvalid: one that is not taken, or one that comes twice and is no list.
    """
    if unknown := sorted(set(form.texts) - taken - WITHOUT_EFFECT):
        raise RequestInvalid(
            f"the field {unknown[0][:64]!r} is not taken; taken are {', '.join(sorted(taken))}", field=unknown[0][:64]
        )
    for name, values in form.texts.items():
        if len(values) > 1 and not name.endswith("[]"):
            raise RequestInvalid(f"{name} comes {len(values)} times; once is allowed", field=name)
    return {name: values[0] for name, values in form.texts.items() if name in taken}


def _files(form: Form, names: tuple[str, ...], said: str) -> list[bytes]:
    """The files of one field.

    Raises:
        RequestInvalid: none, or one in another field.
    """
    if unknown := sorted(set(form.files) - set(names)):
        raise RequestInvalid(f"the file {unknown[0][:64]!r} is not taken; {said} is", field=unknown[0][:64])
    found = [file for name in names for file in form.files.get(name, [])]
    if not found:
        raise RequestInvalid(f"{said} is missing; send it as a file with a name", field=said)
    return found


def _model(given: Mapping[str, str]) -> str:
    if "model" not in given:
        raise RequestInvalid("model is missing; it names an endpoint", field="model")
    return given["model"]


Number = TypeVar("Number", int, float)


def _number(given: Mapping[str, str], name: str, kind: type[Number]) -> Number | None:
    if name not in given:
        return None
    try:
        return kind(given[name])
    except ValueError:
        raise RequestInvalid(f"{name} is {given[name][:32]!r}; a number is needed", field=name) from None


def _decoded(text: str, index: int) -> bytes:
    """An image of a JSON body."""
    if text.startswith(("http:", "https:")):
        raise RequestInvalid(
            f"image[{index}] is an address, and none is fetched; send the image itself as base64 or a data: URL",
            field="image",
        )
    content = text.partition(";base64,")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error:
        raise RequestInvalid(f"image[{index}] is no base64; send base64 or a data: URL", field="image") from None
