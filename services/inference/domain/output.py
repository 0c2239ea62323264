"""What whoever runs a model hands on: pieces of text, vectors, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """What one response added.

    `input_tokens`: what the model has read, in total; 0 where that is not said yet. `output_tokens`: what it has produced
    since the last piece; below 0 where a total corrects what was counted before it was known.
    """

    text: str
    input_tokens: int
    output_tokens: int
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors, row by row, as little-endian FP32 bytes, and the tokens that were read."""

    rows: list[bytes]
    input_tokens: int
