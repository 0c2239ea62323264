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
    """Tokens of one call: what the model read, what it produced as far as the gateway received it."""

    input_tokens: int = 0
    output_tokens: int = 0


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
    return Outcome.INTERRUPTED if delivered.output_tokens else Outcome.FAILED
