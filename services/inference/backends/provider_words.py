"""What external providers say in OpenAI's words: chunks, vectors, usage, and refusals.

A provider's own sentences may quote the prompt, so none is passed on: only codes, parameter names and figures are.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Annotated

import msgspec

from chassis.errors import Problem
from chassis.telemetry import get_logger
from services.inference.domain.errors import (
    ContentFiltered,
    PromptTooLong,
    ProviderBusy,
    ProviderFailed,
    ProviderMisconfigured,
    ProviderTimeout,
    RequestInvalid,
)
from services.inference.domain.output import Embedded
from services.inference.domain.usage import Counts

log = get_logger(__name__)

RETRY_AFTER_S_MAX = 3600.0
_WORD = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
_TOO_LONG = frozenset({"context_length_exceeded", "prompt_too_long", "string_above_max_length"})

Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class Usage(msgspec.Struct, frozen=True):
    """The provider's own count; it makes the bill."""

    prompt_tokens: Tokens
    completion_tokens: Tokens = 0

    @property
    def counts(self) -> Counts:
        return Counts(self.prompt_tokens, self.completion_tokens)


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class Chunk(msgspec.Struct, frozen=True):
    """One event of a streamed answer. Fields that are not known here say nothing."""

    choices: list[_Choice] = []
    usage: Usage | None = None
    # Set where the stream breaks off.
    error: msgspec.Raw | None = None

    @property
    def text(self) -> str:
        return (self.choices[0].delta.content or "") if self.choices else ""

    @property
    def finish_reason(self) -> str:
        return (self.choices[0].finish_reason or "") if self.choices else ""


class _Vector(msgspec.Struct, frozen=True):
    index: int
    embedding: list[float]


class _Vectors(msgspec.Struct, frozen=True):
    data: list[_Vector]
    usage: Usage | None = None


class _Error(msgspec.Struct, frozen=True):
    code: str | int | None = None
    param: str | None = None


class _Refusal(msgspec.Struct, frozen=True):
    """A body with an error; its sentences are left unread."""

    error: _Error = _Error()
    usage: Usage | None = None


_chunks = msgspec.json.Decoder(Chunk)
_vectors = msgspec.json.Decoder(_Vectors)
_refusals = msgspec.json.Decoder(_Refusal)


def read_chunk(provider: str, data: str) -> Chunk:
    """One event's data.

    Raises:
        ProviderFailed: it is no chunk, or says that the answer breaks off.
    """
    try:
        chunk = _chunks.decode(data)
    except msgspec.DecodeError:
        raise _unreadable(provider) from None
    if chunk.error is not None:
        raise ProviderFailed(f"provider {provider!r} broke off its answer; try again", retry_after_s=1.0)
    return chunk


def read_vectors(provider: str, content: bytes, rows: int) -> tuple[Embedded, bool]:
    """The vectors in the order of the texts, and whether the provider said what it read.

    Raises:
        ProviderFailed: it is no such answer, or not one vector of one length a text.
    """
    try:
        said = _vectors.decode(content)
        by_index = {vector.index: struct.pack(f"<{len(vector.embedding)}f", *vector.embedding) for vector in said.data}
        vectors = [by_index[index] for index in range(rows)]
    except (msgspec.DecodeError, KeyError, OverflowError, struct.error):
        raise _unreadable(provider) from None
    if len(said.data) != rows or len({len(vector) for vector in vectors}) != 1 or not vectors[0]:
        raise _unreadable(provider)
    return Embedded(vectors, said.usage.prompt_tokens if said.usage else 0), said.usage is not None


def _unreadable(provider: str) -> ProviderFailed:
    return ProviderFailed(f"provider {provider!r} answered in a form that is not OpenAI's; the operator looks at it")


def refusal(provider: str, status: int, headers: Mapping[str, str], body: bytes) -> Problem:
    """A provider's refusal as our caller must understand it: what is the operator's fault is not the caller's."""
    try:
        said = _refusals.decode(body)
    except msgspec.DecodeError:
        said = _Refusal()
    code, param = _word(said.error.code), _word(said.error.param)
    log.warning("a provider refused a call", provider=provider, status=status, code=code, param=param)
    retry_after_s = _retry_after_s(headers)
    if status in (401, 403):
        return ProviderMisconfigured(
            f"provider {provider!r} refused this platform's credential; the operator renews its key"
        )
    if status in (404, 410):
        return ProviderMisconfigured(
            f"provider {provider!r} has no such model; the operator syncs its source, or deploy another model"
        )
    if status == 429:
        return ProviderBusy(
            f"provider {provider!r} takes no more calls now; try again later", retry_after_s=retry_after_s or 1.0
        )
    if status in (408, 504):
        return ProviderTimeout(f"provider {provider!r} did not answer in time; try again, or ask for less")
    if status in (400, 413, 422):
        return _refused_request(provider, code, param, said)
    return ProviderFailed(
        f"provider {provider!r} answered with HTTP status {status}; try again", retry_after_s=retry_after_s or 1.0
    )


def _refused_request(provider: str, code: str, param: str, said: _Refusal) -> Problem:
    if code == "content_filter":
        return ContentFiltered(
            f"the content filter of provider {provider!r} refused the prompt; change it",
            read=said.usage.counts if said.usage else Counts(),
        )
    if code in _TOO_LONG:
        return PromptTooLong(f"the prompt does not fit the model of provider {provider!r}; shorten it")
    return RequestInvalid(
        f"provider {provider!r} does not take {param or 'the request'} ({code or 'no reason given'}); change it",
        field=param or None,
    )


def _word(said: str | int | None) -> str:
    """A code or a parameter's name; anything else could be a quotation."""
    text = "" if said is None else str(said)
    return text if _WORD.fullmatch(text) else ""


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds; a date, which `retry-after` may be too, is not read."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            wanted_s = float(headers.get(name, "")) * unit_s
        except ValueError:
            continue
        if wanted_s > 0:
            return min(wanted_s, RETRY_AFTER_S_MAX)
    return None
