"""How texts become words, which of them tell, and where they stand."""

from __future__ import annotations

import pytest

from services.catalog.domain.highlights import TEXT_LENGTH_MAX, highlights
from services.catalog.domain.words import distance, telling_words, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Meta-Llama-3.1-8B-Instruct", ["meta", "llama", "3.1", "8b", "instruct"]),
        ("phi4 GPT-4o", ["phi", "4", "gpt", "4o"]),
        ("model.Q4_K_M.gguf", ["model", "q", "4", "k", "m", "gguf"]),
        ("Mixtral 8x22B", ["mixtral", "8x", "22b"]),
        ("Größe, élan", ["grosse", "elan"]),
        ("日本語モデル", ["日", "本", "語", "モ", "テ", "ル"]),
        ("?! …", []),
    ],
)
def test_texts_become_words(text: str, words: list[str]) -> None:
    """Numbers keep their point and the letters behind them; everything else parts words."""
    assert words_of(text) == words


def test_words_that_say_nothing_are_left_out() -> None:
    """Unless there are no others."""
    assert telling_words(["a", "model", "for", "german", "german"]) == ["german"]
    assert telling_words(["the", "model", "the"]) == ["the", "model"]


@pytest.mark.parametrize(
    ("left", "right", "apart"),
    [
        ("mistral", "mistral", 0),
        ("mistral", "mistrl", 1),
        ("mistral", "mistrall", 1),
        ("mistral", "mistrel", 1),
        ("mistral", "mistarl", 1),
        ("mistral", "msitarl", 2),
        ("", "abc", 3),
        ("abc", "", 3),
        ("ca", "abc", 3),
    ],
)
def test_distance_counts_mistakes(left: str, right: str, apart: int) -> None:
    """A letter left out, put in, replaced or swapped with its neighbour is one."""
    assert distance(left, right) == apart


def test_each_word_is_explained_once() -> None:
    """By the first text that has it; the others are not looked at when nothing is left."""

    def texts() -> object:
        yield "name", "Quick Fox"
        yield "tags", "fox, red"
        yield "card", "A red fox that jumps."
        raise AssertionError("every word is explained by now")

    found = highlights(["fox", "red", "jumps"], texts())  # type: ignore[arg-type]
    assert [(one.field, one.words) for one in found] == [
        ("name", ("fox",)),
        ("tags", ("red",)),
        ("card", ("jumps",)),
    ]


def test_long_texts_are_cut_around_the_word() -> None:
    """On one line, between words, and never longer than is said."""
    text = "first " * 100 + "\n\nneedle\n\n" + "last " * 100
    (found,) = highlights(["needle"], [("card", text)])
    assert len(found.text) <= TEXT_LENGTH_MAX
    assert found.text.startswith("…first ")
    assert found.text.endswith("…")
    assert " needle " in found.text
