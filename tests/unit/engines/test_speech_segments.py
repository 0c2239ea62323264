"""Tokens with timestamps become pieces of speech, and say where the next window begins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.refusals import Refusal
from engines.whisper.parameters import Parameters, read_parameters
from engines.whisper.segments import Heard, compression_ratio, segments_of, split_at_timestamps

# The token of 0.00 s; each later one is two frames of 10 ms on.
ZERO = 100
WINDOW = 3_000


def at(seconds: float) -> int:
    return ZERO + round(seconds * 50)


def heard(**changes: float) -> Heard:
    facts = {"temperature": 0.0, "avg_logprob": -0.3, "compression_ratio": 1.2, "no_speech_prob": 0.1, **changes}
    return Heard(tokens=(1,), text="a", **facts)


@pytest.mark.parametrize(
    ("tokens", "frames", "pieces", "covered"),
    [
        # One sentence: the whole window is read.
        ([at(0), 1, 2, at(5)], WINDOW, [([at(0), 1, 2, at(5)], 0, 500)], WINDOW),
        # Two, the second one cut off by the window's end: it is heard again.
        ([at(0), 1, at(5), at(5), 2], WINDOW, [([at(0), 1, at(5)], 0, 500)], 500),
        # Two whole ones.
        (
            [at(0), 1, at(5), at(5), 2, at(9)],
            WINDOW,
            [([at(0), 1, at(5)], 0, 500), ([at(5), 2, at(9)], 500, 900)],
            WINDOW,
        ),
        # No timestamp at all: the text lasts as long as the audio.
        ([1, 2], 700, [([1, 2], 0, 700)], 700),
        # A timestamp behind the end of the audio.
        ([at(0), 1, at(29)], 700, [([at(0), 1, at(29)], 0, 700)], 700),
        # A pair at 0.00 s would be heard for ever.
        ([at(0), at(0), 1], WINDOW, [([at(0)], 0, 0)], WINDOW),
    ],
)
def test_a_window_is_cut_where_two_timestamps_meet(
    tokens: list[int], frames: int, pieces: list[tuple[list[int], int, int]], covered: int
) -> None:
    found, read = split_at_timestamps(tokens, ZERO, frames)
    assert [(list(piece), begin, end) for piece, begin, end in found] == pieces
    assert read == covered


@given(st.lists(st.integers(0, ZERO + 1_500), min_size=1, max_size=60), st.integers(1, WINDOW))
def test_every_window_moves_on_and_no_further_than_its_end(tokens: list[int], frames: int) -> None:
    """Whatever the model says: a file comes to an end, and none of it is skipped."""
    pieces, covered = split_at_timestamps(tokens, ZERO, frames)
    assert 1 <= covered <= frames
    assert pieces
    assert all(0 <= begin <= frames and 0 <= end <= frames for _, begin, end in pieces)


def test_a_segment_has_its_place_in_the_file() -> None:
    """Of a window that begins at 30 s; pieces without text or without length are left out."""
    pieces = [((1,), 100, 250), ((), 250, 300), ((2,), 300, 300)]
    (segment,) = segments_of(pieces, heard(), 3_000, lambda tokens: "word" * len(tokens))
    assert (segment.seek, segment.start, segment.end, segment.text, segment.tokens) == (3_000, 31, 32.5, "word", (1,))


@pytest.mark.parametrize(
    ("changes", "makes_sense", "is_silence"),
    [
        ({}, True, False),
        ({"compression_ratio": 2.5}, False, False),
        ({"avg_logprob": -1.1}, False, False),
        ({"no_speech_prob": 0.7}, True, False),
        # Improbable words where probably nobody speaks: silence, and nothing to try again.
        ({"no_speech_prob": 0.7, "avg_logprob": -1.1}, True, True),
    ],
)
def test_words_that_make_no_sense_are_told_from_silence(
    changes: dict[str, float], makes_sense: bool, is_silence: bool
) -> None:
    assert (heard(**changes).makes_sense, heard(**changes).is_silence) == (makes_sense, is_silence)


def test_a_text_that_repeats_itself_compresses_well() -> None:
    assert compression_ratio("every call makes one record") < 2.4 < compression_ratio("again and " * 40)
    assert compression_ratio("") == 0


def test_parameters_have_defaults_and_null_is_one() -> None:
    assert read_parameters("") == read_parameters('{"prompt": null, "language": "en"}') == Parameters()
    assert read_parameters('{"prompt": "Names", "temperature": 1}') == Parameters("Names", 1.0)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"temperature": true}', '{"temperature": NaN}', '{"prompt": 3}', '{"language": "fr"}']
)
def test_parameters_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(Refusal, match="INVALID_PARAMETER"):
        read_parameters(text)
