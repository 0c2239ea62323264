"""Where words of a question stand in the texts of a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.catalog.domain.words import words_of

TEXT_LENGTH_MAX = 240
# Of a long text so much is shown before the first word.
_LEAD = 60
_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Highlight:
    """A text, or a part of it, and the words of the question in it."""

    field: str
    text: str
    words: tuple[str, ...]


def highlights(words: Sequence[str], texts: Iterable[tuple[str, str]]) -> list[Highlight]:
    """Explain each word by the first text that has it.

    Args:
        words: Of the question, each once.
        texts: Field and text, the most telling first; they are read no further than needed.
    """
    left = list(words)
    found: list[Highlight] = []
    for field, text in texts:
        there = set(words_of(text))
        if here := tuple(word for word in left if word in there):
            found.append(Highlight(field, _around(text, here[0]), here))
            left = [word for word in left if word not in here]
        if not left:
            break
    return found


def _around(text: str, word: str) -> str:
    """The text on one line; of a long one what stands around the word."""
    line = _BLANKS.sub(" ", text).strip()
    if len(line) <= TEXT_LENGTH_MAX:
        return line
    begin = max(0, line.casefold().find(word) - _LEAD)
    # A word cut in half is left out.
    begin = line.find(" ", begin) + 1 if begin else 0
    cut = line[begin : begin + TEXT_LENGTH_MAX - 2]
    return f"{'…' if begin else ''}{cut}{'…' if begin + len(cut) < len(line) else ''}"
