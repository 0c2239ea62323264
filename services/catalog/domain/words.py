"""Words as search sees them, the same for what is stored and what is asked, and how far two of them lie apart."""

from __future__ import annotations

import re
import unicodedata

# Scripts without spaces between words: each letter is a word.
_UNSPACED = "぀-ヿ㐀-䶿一-鿿豈-﫿"
# "Meta-Llama-3.1-8B" is meta, llama, 3.1, 8b; "phi4" is phi, 4. A number keeps the letters behind it, so that sizes and
# bit widths stay whole, and its point.
_WORD = re.compile(rf"\d+(?:\.\d+)*[^\W\d_{_UNSPACED}]*|[^\W\d_{_UNSPACED}]+|[{_UNSPACED}]")
_LETTERS = r"\p{L}\p{No}\p{Nl}"
# The same as the search engine writes it, for texts that `plain` has made plain: it cuts long ones itself.
WORD_OF_ENGINE = rf"\d+(?:\.\d+)*[{_LETTERS}&&[^{_UNSPACED}]]*|[{_LETTERS}&&[^{_UNSPACED}]]+|[{_UNSPACED}]"
# So common in questions that they say nothing of what is looked for. "it" is missing: names end with it.
_EMPTY_WORDS = frozenset(
    (
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "by",
        "can",
        "for",
        "from",
        "has",
        "have",
        "how",
        "in",
        "is",
        "me",
        "my",
        "of",
        "on",
        "or",
        "than",
        "that",
        "the",
        "this",
        "to",
        "use",
        "used",
        "with",
        "which",
        "model",
        "models",
    )
)


def words_of(text: str) -> list[str]:
    """The words of a text in their order, lower case and without accents."""
    return _WORD.findall(plain(text))


def plain(text: str) -> str:
    """A text in lower case and without accents."""
    if not text.isascii():
        text = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return text.casefold()


def telling_words(words: list[str]) -> list[str]:
    """Each word once, without those that say nothing; with them where there are no others."""
    distinct = list(dict.fromkeys(words))
    return [word for word in distinct if word not in _EMPTY_WORDS] or distinct


def distance(left: str, right: str) -> int:
    """How many letters must be put in, left out, replaced or swapped with their neighbour to turn one into the other.

    Optimal string alignment, all cells of a column at once in the bits of an integer (Hyyrö, "A Bit-Vector Algorithm
    for Computing Levenshtein and Damerau Edit Distances", 2003): some microseconds where a table takes hundreds.
    """
    if left == right:
        return 0
    if not left or not right:
        return max(len(left), len(right))
    places: dict[str, int] = {}
    for place, letter in enumerate(left):
        places[letter] = places.get(letter, 0) | 1 << place
    every, last = (1 << len(left)) - 1, 1 << len(left) - 1
    ups, downs, diagonal, matches_before, found = every, 0, 0, 0, len(left)
    for letter in right:
        matches = places.get(letter, 0)
        swapped = (~diagonal & matches) << 1 & matches_before
        diagonal = (((matches & ups) + ups ^ ups) | matches | downs | swapped) & every
        grows, shrinks = downs | ~(diagonal | ups) & every, diagonal & ups
        found += bool(grows & last) - bool(shrinks & last)
        grows, shrinks = (grows << 1 | 1) & every, shrinks << 1 & every
        ups, downs = shrinks | ~(diagonal | grows) & every, grows & diagonal
        matches_before = matches
    return found
