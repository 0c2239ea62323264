"""Models whose names come nearest to words that hardly anything matches: the answer to a typing mistake."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import tantivy

from services.catalog.domain.names import id_of, owner_of
from services.catalog.domain.words import distance, words_of
from services.catalog.search import schema
from services.catalog.search.reader import Reader, both, without

# Words that so few names hold may be mistakes for others; the rest are first taken as they stand.
_RARE = 20
# Scores of words that a name has by mistake, or begun; two mistakes count less than one.
_ONE_MISTAKE, _TWO_MISTAKES, _BEGUN = 6.0, 4.0, 4.0
_BEGUN_LENGTH_MIN = 3
_TWO_MISTAKES_LENGTH_MIN = 5
# Nearer than this is good enough not to look at the common words too.
_GOOD_DISTANCE = 2
# What lies further is another name: so many letters, and one more for each so many of the question.
_FAR_LETTERS, _LETTERS_PER_MISTAKE = 3, 10


@dataclass(frozen=True, slots=True)
class Near:
    """A model by how far its name lies from the question.

    Attributes:
        distance: Letters that differ.
        suggestion: The question with its words as the name writes them; empty where it lies too far for that.
    """

    name: str
    rank: int
    distance: int
    suggestion: str


def nearest(
    reader: Reader, base: Sequence[tantivy.Query], matched: tantivy.Query, words: Sequence[str], limit: int
) -> list[Near]:
    """The nearest names of publisher and model, nearest first; at most `limit`, of as many candidates.

    One word may be missing altogether, and one more where even rare words are no mistakes and there are enough of them.

    Args:
        base: What each of them fulfils.
        matched: What none of them is: it was found as it stands.
    """
    rare = {word for word in words if reader.document_frequency(schema.TITLE_WORDS, word) < _RARE}
    found = _ranked(reader, base, matched, words, rare, missing=1 if len(words) > 1 else 0, limit=limit)
    if found and found[0].distance <= _GOOD_DISTANCE:
        return found
    missing = 2 if len(words) > 3 else 1 if len(words) > 1 else 0
    wider = _ranked(reader, base, matched, words, set(words), missing=missing, limit=limit)
    return _sorted({near.name: near for near in (*wider, *found)}.values(), limit)


def _ranked(
    reader: Reader,
    base: Sequence[tantivy.Query],
    matched: tantivy.Query,
    words: Sequence[str],
    doubtful: Collection[str],
    *,
    missing: int,
    limit: int,
) -> list[Near]:
    likely = [(tantivy.Occur.Should, _variants(reader, word, doubtful=word in doubtful)) for word in words]
    joined = [
        (tantivy.Occur.Should, reader.term(schema.TITLE_WORDS, first + second))
        for first, second in pairwise(words)
        if reader.document_frequency(schema.TITLE_WORDS, first + second)
    ]
    query = tantivy.Query.boolean_query([*likely, *joined], minimum_number_should_match=len(words) - missing)
    # The base decides who is looked at, not how well they score.
    unscored = [tantivy.Query.const_score_query(one, 0.0) for one in base]
    wanted = without(both(*unscored, query), [matched])
    near = (_near(name, rank, words) for name, rank in reader.best(wanted, limit))
    too_far = _FAR_LETTERS + sum(map(len, words)) // _LETTERS_PER_MISTAKE
    return _sorted((one for one in near if one.distance <= too_far), limit)


def _sorted(found: Iterable[Near], limit: int) -> list[Near]:
    return sorted(found, key=lambda near: (near.distance, -near.rank, near.name))[:limit]


def _variants(reader: Reader, word: str, *, doubtful: bool) -> tantivy.Query:
    """A word, or what it may have been meant for."""
    queries = [reader.term(schema.TITLE_WORDS, word)]
    if doubtful and len(word) > 1:
        queries.append(_mistaken(reader, word, 1, _ONE_MISTAKE))
    if doubtful and len(word) >= _TWO_MISTAKES_LENGTH_MIN and not word[0].isdigit():
        queries.append(_mistaken(reader, word, 2, _TWO_MISTAKES))
    if doubtful and len(word) >= _BEGUN_LENGTH_MIN:
        begun = tantivy.Query.fuzzy_term_query(reader.schema, schema.TITLE_WORDS, word, 0, prefix=True)
        queries.append(tantivy.Query.boost_query(begun, _BEGUN))
    if doubtful and (parts := _split(reader, word)):
        queries.append(both(*(reader.term(schema.TITLE_WORDS, part) for part in parts)))
    return tantivy.Query.disjunction_max_query(queries) if len(queries) > 1 else queries[0]


def _mistaken(reader: Reader, word: str, mistakes: int, weight: float) -> tantivy.Query:
    fuzzy = tantivy.Query.fuzzy_term_query(reader.schema, schema.TITLE_WORDS, word, mistakes)
    return tantivy.Query.boost_query(fuzzy, weight)


def _split(reader: Reader, word: str) -> tuple[str, str] | None:
    """Two known words that were written as one, the ones that most names have."""
    cuts = ((word[:cut], word[cut:]) for cut in range(2, len(word) - 1))
    known = [(min(reader.document_frequency(schema.TITLE_WORDS, part) for part in parts), parts) for parts in cuts]
    best = max(known, default=(0, None))
    return best[1] if best[0] else None


def _near(name: str, rank: int, words: Sequence[str]) -> Near:
    model, publisher = words_of(id_of(name)), words_of(owner_of(name))
    asked = "".join(words)
    # As one string, so that a blank too many or too few counts as the one mistake it is.
    whole = min(distance(asked, "".join(model)), distance(asked, "".join([*publisher, *model])))
    meant = [_closest(word, [*model, *publisher]) for word in words]
    apart = sum(letters for letters, _ in meant)
    if whole <= apart:
        return Near(name, rank, whole, " ".join(model))
    is_close = all(letters <= _GOOD_DISTANCE for letters, _ in meant)
    return Near(name, rank, apart, " ".join(dict.fromkeys(word for _, word in meant)) if is_close else "")


def _closest(word: str, candidates: Sequence[str]) -> tuple[int, str]:
    if word in candidates:
        return 0, word
    return min((distance(word, candidate), candidate) for candidate in candidates)
