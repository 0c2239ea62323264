"""What Triton and its engines say when they answer no, in our words; never passed on as it is."""

from __future__ import annotations

from collections import defaultdict

import grpc

from chassis.errors import Problem
from chassis.telemetry import get_logger
from services.inference.domain.errors import (
    EngineBusy,
    EngineFailed,
    EngineTimeout,
    MediaInvalid,
    MediaTooLarge,
    PromptTooLong,
    RequestInvalid,
)

log = get_logger(__name__)

# What Triton says of a call that it did not take: it is starting, or it drains before its end.
_NOT_TAKEN = ("Request for unknown model: ", "Server not ready", "Server is stopping, ")
# What engines refuse of audio and images, in words.
_MEDIA: dict[str, tuple[type[Problem], str]] = {
    "AUDIO_UNREADABLE": (MediaInvalid, "the file is no audio that can be read; {allowed} are taken"),
    "AUDIO_TOO_SHORT": (MediaInvalid, "the audio is {milliseconds} ms long; at least {milliseconds_min} ms are needed"),
    "AUDIO_TOO_LONG": (MediaTooLarge, "the audio is longer than {seconds_max} s, the most the model takes; send parts"),
    "IMAGE_UNREADABLE": (MediaInvalid, "image {item} is none that can be read; {allowed} are taken"),
    "IMAGE_TOO_LARGE": (
        MediaTooLarge,
        "image {item} has {pixels} pixels and the model takes at most {pixels_max}; send a smaller one",
    ),
}


class NothingRead(Exception):
    """The instance was not reached, or takes no calls: another one may be asked."""


def problem_of(error: grpc.aio.AioRpcError) -> Exception:
    """What a failed call of an instance means to its caller, or to who may ask another instance."""
    return problem_of_code(error.code(), error.details())


def problem_of_code(code: grpc.StatusCode, details: str | None) -> Exception:
    """As `problem_of`."""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return EngineTimeout("the instance did not answer in time; try again, or ask for less")
    if code is grpc.StatusCode.UNAVAILABLE and "failed to connect" in (details or "").lower():
        return NothingRead("it was not reached")
    return refusal(details or code.name)


def refusal(text: str) -> Exception:
    """What Triton or an engine said (one upper-case reason with key=value pairs); never passed on as it is."""
    if text.startswith(_NOT_TAKEN):
        return NothingRead("it takes no calls")
    words = text.split()
    reason = next((word for word in words if word.isupper() and "_" in word), "")
    facts = dict(word.split("=", 1) for word in words if "=" in word)
    if reason == "PROMPT_TOO_LONG":
        return PromptTooLong(
            f"the prompt has {facts.get('prompt_tokens')} tokens and the model's context holds "
            f"{facts.get('context_tokens')}; shorten the prompt",
            metadata={name: facts[name] for name in ("prompt_tokens", "context_tokens") if name in facts},
        )
    if reason == "ENGINE_BUSY":
        return EngineBusy(
            f"{facts.get('waiting')} calls wait at the instance; {facts.get('waiting_max')} are allowed: try again later",
            retry_after_s=1.0,
        )
    if reason in ("INVALID_PARAMETER", "PROMPT_EMPTY"):
        return RequestInvalid(
            f"{facts.get('name', 'the prompt')} is not taken by the model; allowed: {facts.get('allowed', 'some text')}"
        )
    if reason in _MEDIA:
        kind, said = _MEDIA[reason]
        return kind(said.format_map(defaultdict(lambda: "?", facts)), metadata=facts)
    log.warning("an instance failed", said=reason or "nothing that can be read")
    return EngineFailed("the instance broke while it answered; try again", retry_after_s=1.0)
