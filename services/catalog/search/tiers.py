"""How well a model matches, as tiers: whoever is in an earlier one comes first, whatever the others are.

The order of two models depends on them and on the question alone, not on what else the index holds, as scores of
relevance do. So it is the same on every replica and stays as it is between two pages while others are imported.
"""

from __future__ import annotations

from collections.abc import Sequence

import tantivy

from services.catalog.domain.search import Order, Reason
from services.catalog.search import schema
from services.catalog.search.reader import Reader, Tier, both, either, without

# Each field has the words of the one before too.
_NESTED = {
    Reason.NAME: schema.NAME_WORDS,
    Reason.PUBLISHER: schema.TITLE_WORDS,
    Reason.LABELS: schema.LABEL_WORDS,
    Reason.CARD: schema.TEXT_WORDS,
}


def all_words(reader: Reader, field: str, words: Sequence[str]) -> tantivy.Query:
    """Models that have every word in a field."""
    return both(*(reader.term(field, word) for word in words))


def exact_name(reader: Reader, words: Sequence[str]) -> tantivy.Query:
    """Models whose id, display name, or publisher and id together consist of these words."""
    count = len(words)
    by_name = all_words(reader, schema.NAME_WORDS, words)
    return either(
        [
            both(by_name, reader.between(schema.ID_LENGTH, count, count)),
            both(by_name, reader.between(schema.DISPLAY_LENGTH, count, count)),
            both(
                all_words(reader, schema.TITLE_WORDS, words),
                reader.between(schema.TITLE_LENGTH, count, count),
            ),
        ]
    )


def tiers_of(reader: Reader, base: Sequence[tantivy.Query], words: Sequence[str], spoken: Sequence[str]) -> list[Tier]:
    """Exact name, name that begins so, all words in the name, then with the publisher, then with tags and tasks, then
    anywhere in the card.

    Args:
        base: What each of them fulfils too.
        words: The telling words of the question, each once.
        spoken: All its words in their order.
    """
    steps = {Reason.EXACT_NAME: exact_name(reader, words)}
    if len(spoken) <= schema.OPENING_WORDS:
        steps[Reason.NAME_BEGINS] = reader.term(schema.OPENINGS, " ".join(spoken))
    steps |= {reason: all_words(reader, field, words) for reason, field in _NESTED.items()}
    queries = list(steps.values())
    return [
        Tier(without(both(*base, step), queries[:number]), schema.CLOSENESS, reason)
        for number, (reason, step) in enumerate(steps.items())
    ]


def matching(reader: Reader, base: Sequence[tantivy.Query], words: Sequence[str]) -> tantivy.Query:
    """Everything that any tier holds."""
    return both(*base, *(reader.term(schema.TEXT_WORDS, word) for word in words))


def most_words(reader: Reader, words: Sequence[str]) -> tantivy.Query:
    """Models that have at least two thirds of the words somewhere."""
    return tantivy.Query.boolean_query(
        [(tantivy.Occur.Should, reader.term(schema.TEXT_WORDS, word)) for word in words],
        minimum_number_should_match=len(words) - len(words) // 3,
    )


def browsing(reader: Reader, matched: tantivy.Query, order: Order) -> list[Tier]:
    """One order for all that match: by a number, models without one last; or by how they stand."""
    if order.facet is None:
        return [Tier(matched, schema.STANDING, Reason.LISTED)]
    field = order.facet.name
    known = tantivy.Query.exists_query(field)
    return [
        Tier(both(matched, known), schema.STANDING, Reason.LISTED, value=field, descending=order.descending),
        Tier(without(matched, [known]), schema.STANDING, Reason.LISTED),
    ]
