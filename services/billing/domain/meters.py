"""What is counted; the numbers are those of `modelyard.type.v1.Meter`."""

from __future__ import annotations

from enum import IntEnum


class Meter(IntEnum):
    INPUT_TOKENS = 1
    OUTPUT_TOKENS = 2
    CORE_MILLISECONDS = 3
    REQUESTS = 4
    AUDIO_MILLISECONDS = 5
    IMAGES = 6

    @property
    def unit(self) -> str:
        """The whole unit a quantity counts."""
        return _UNITS[self]


_UNITS = {
    Meter.INPUT_TOKENS: "token",
    Meter.OUTPUT_TOKENS: "token",
    Meter.CORE_MILLISECONDS: "core-millisecond",
    Meter.REQUESTS: "request",
    Meter.AUDIO_MILLISECONDS: "audio-millisecond",
    Meter.IMAGES: "image",
}

# What one call may count; core-milliseconds come from instance facts alone.
CALL_METERS = (Meter.INPUT_TOKENS, Meter.OUTPUT_TOKENS, Meter.REQUESTS, Meter.AUDIO_MILLISECONDS, Meter.IMAGES)
