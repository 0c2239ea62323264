"""What a call is billed, by how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Outcome(IntEnum):
    """The numbers are those of `modelyard.type.v1.Outcome`."""

    COMPLETED = 1
    CANCELLED = 2
    INTERRUPTED = 3
    FAILED = 4
    TIMED_OUT = 5


@dataclass(frozen=True, slots=True)
class Counts:
    """What one call used, as far as the gateway received it: what the model read, and what it produced."""

    input_tokens: int = 0
    output_tokens: int = 0
    audio_milliseconds: int = 0
    images: int = 0

    @property
    def has_read(self) -> bool:
        """Whether the model has read anything."""
        return bool(self.input_tokens or self.audio_milliseconds or self.images)

    @property
    def has_output(self) -> bool:
        """Whether these are counts of an answer that has begun: text, or what was heard or seen."""
        return bool(self.output_tokens or self.audio_milliseconds or self.images)

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.audio_milliseconds + other.audio_milliseconds,
            self.images + other.images,
        )


def billed(outcome: Outcome, received: Counts, delivered: Counts) -> Counts:
    """What goes into the usage record.

    Args:
        received: What the engine told the gateway.
        delivered: What the gateway handed on to the client.

    A completed, cancelled or timed-out call pays for what was processed; one that our side cut pays for what the client
    received; one that failed before any output pays nothing.
    """
    if outcome is Outcome.FAILED:
        return Counts()
    return delivered if outcome is Outcome.INTERRUPTED else received


def cut_by_us(delivered: Counts) -> Outcome:
    """How a call ends that our side broke: as failed, and for nothing, while no output has left."""
    return Outcome.INTERRUPTED if delivered.has_output else Outcome.FAILED
