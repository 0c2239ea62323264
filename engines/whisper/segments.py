"""What the model made of a window, and the pieces of speech in it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engines.whisper.features import FRAMES_PER_SECOND

# Words that make no sense repeat themselves, or the model itself holds them improbable.
COMPRESSION_RATIO_MAX = 2.4
LOG_PROBABILITY_MIN = -1.0
NO_SPEECH_PROBABILITY_MAX = 0.6
# A timestamp token stands for two frames.
FRAMES_PER_TIMESTAMP = 2


@dataclass(frozen=True)
class Segment:
    """A piece of speech; times are seconds from the beginning of the file, `seek` is its window's, in frames."""

    seek: int
    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float

    def facts(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Heard:
    """What the model made of one window."""

    tokens: tuple[int, ...]
    text: str
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float

    @property
    def makes_sense(self) -> bool:
        """Whether hotter words would not be better ones."""
        if self.is_silence:
            return True
        return self.compression_ratio <= COMPRESSION_RATIO_MAX and self.avg_logprob >= LOG_PROBABILITY_MIN

    @property
    def is_silence(self) -> bool:
        return self.no_speech_prob > NO_SPEECH_PROBABILITY_MAX and self.avg_logprob < LOG_PROBABILITY_MIN


# Tokens of one segment, and its beginning and end in frames of its window.
Piece = tuple[tuple[int, ...], int, int]


def split_at_timestamps(tokens: Sequence[int], first_timestamp: int, frames: int) -> tuple[list[Piece], int]:
    """Cut a window's tokens where two timestamps meet.

    Args:
        tokens: Text and timestamp tokens of one window.
        first_timestamp: The token of 0.00 s; later ones follow it.
        frames: Frames of audio in the window.

    Returns:
        The pieces, and how many frames they cover (1 to `frames`): the next window begins there. Text after the last
        pair of timestamps is left out; it is cut off by the window's end and heard again.
    """

    def frame(token: int, otherwise: int) -> int:
        """Where a timestamp points to; `otherwise` where the token is text."""
        if token < first_timestamp:
            return otherwise
        return min((token - first_timestamp) * FRAMES_PER_TIMESTAMP, frames)

    is_timestamp = [token >= first_timestamp for token in tokens]
    cuts = [at for at in range(1, len(tokens)) if is_timestamp[at - 1] and is_timestamp[at]]
    ends_whole = is_timestamp[-2:] == [False, True]
    if not cuts:
        stamps = [frame(token, 0) for token in tokens if token >= first_timestamp]
        end = stamps[-1] if stamps and stamps[-1] > 0 else frames
        begin = stamps[0] if stamps and stamps[0] < end else 0
        return [(tuple(tokens), begin, end)], frames
    if ends_whole:
        cuts.append(len(tokens))
    pieces: list[Piece] = []
    since = 0
    for cut in cuts:
        piece = tuple(tokens[since:cut])
        pieces.append((piece, frame(piece[0], pieces[-1][2] if pieces else 0), frame(piece[-1], frames)))
        since = cut
    covered = frames if ends_whole else pieces[-1][2]
    # A window that ends where it began would be heard for ever.
    return pieces, covered or frames


def segments_of(
    pieces: Sequence[Piece], heard: Heard, seek: int, text_of: Callable[[Sequence[int]], str]
) -> list[Segment]:
    """Pieces with their text and their place in the file; those without text or length are left out."""
    segments = []
    for tokens, begin, end in pieces:
        text = text_of(tokens)
        if not text.strip() or end <= begin:
            continue
        segments.append(
            Segment(
                seek=seek,
                start=(seek + begin) / FRAMES_PER_SECOND,
                end=(seek + end) / FRAMES_PER_SECOND,
                text=text,
                tokens=tokens,
                temperature=heard.temperature,
                avg_logprob=heard.avg_logprob,
                compression_ratio=heard.compression_ratio,
                no_speech_prob=heard.no_speech_prob,
            )
        )
    return segments


def compression_ratio(text: str) -> float:
    """How often a text repeats itself: its bytes over their compressed size; 0 for none."""
    content = text.encode()
    return len(content) / len(zlib.compress(content)) if content else 0.0
