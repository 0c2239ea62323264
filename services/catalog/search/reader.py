"""One committed state of the index, asked in the order that results are shown in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import tantivy

from services.catalog.domain.search import Reason
from services.catalog.search import schema

# Hits read beyond those wanted: so many may share a rank without one being lost between two pages.
_SLACK = 4
First = TypeVar("First")
Second = TypeVar("Second")


@dataclass(frozen=True, slots=True)
class Position:
    """Up to which change of which database an index goes.

    Attributes:
        change: Number of the last change that it holds; 0 for an empty index.
        origin: Uid of the database's oldest model, which tells it from others.
    """

    change: int = 0
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Hit:
    """A model that was found, and where it stands among the others.

    Attributes:
        tier: Number of the tier that it was found in.
        value: What the tier is ordered by first; 0 where that is its rank alone.
        rank: Higher comes first.
    """

    tier: int
    value: int
    rank: int
    name: str


@dataclass(frozen=True, slots=True)
class Tier:
    """Models that match equally well, in one order.

    Attributes:
        query: Only what no earlier tier holds.
        rank: Field that they are ordered by, highest first, then by name.
        reason: Why they match.
        value: Number field that comes before the rank; every model of the tier has one. None for none.
    """

    query: tantivy.Query
    rank: str
    reason: Reason
    value: str | None = None
    descending: bool = False


class Reader:
    """Searches a snapshot; cheap to make.

    Args:
        helpers: Threads that take a half of what can be done at once; without them it is done one after the other.
    """

    def __init__(self, known: tantivy.Schema, searcher: tantivy.Searcher, helpers: Executor | None = None) -> None:
        self.schema = known
        self.searcher = searcher
        self._helpers = helpers

    def together(self, first: Callable[[], First], second: Callable[[], Second]) -> tuple[First, Second]:
        """Two looks at the index at once; neither may call this again, or all helpers could wait for each other."""
        if self._helpers is None:
            return first(), second()
        other = self._helpers.submit(second)
        try:
            return first(), other.result()
        finally:
            wait([other])

    def document_count(self) -> int:
        """Models in the index."""
        return self.searcher.num_docs - self.count(self.term(schema.NAME, schema.POSITION_KEY))

    def position(self) -> Position:
        """How far the index goes."""
        found = self.searcher.search(self.term(schema.NAME, schema.POSITION_KEY), 1, count=False).hits
        if not found:
            return Position()
        mark = self.searcher.doc(found[0][1])
        return Position(int(mark[schema.POSITION][0]), str(mark[schema.ORIGIN][0]))

    def term(self, field: str, value: str) -> tantivy.Query:
        """Models that have this very value."""
        return tantivy.Query.term_query(self.schema, field, value, "basic")

    def between(self, field: str, least: int | None = None, most: int | None = None) -> tantivy.Query:
        """Models whose number lies within both ends; at least one end is given."""
        return tantivy.Query.range_query(self.schema, field, tantivy.FieldType.Integer, least, most)

    def count(self, query: tantivy.Query) -> int:
        """How many models match."""
        found: Any = self.searcher.search(query, 1, count=True, order_by_field=schema.STANDING)
        return int(found.count)

    def page(self, tiers: Sequence[Tier], after: Hit | None, limit: int) -> list[Hit]:
        """The next hits after one, in order."""
        hits: list[Hit] = []
        for number, tier in enumerate(tiers):
            if after is not None and number < after.tier:
                continue
            begin = after if after is not None and number == after.tier else None
            hits += self._of_tier(number, tier, begin, limit - len(hits))
            if len(hits) == limit:
                break
        return hits

    def best(self, query: tantivy.Query, limit: int) -> list[tuple[str, int]]:
        """Names and closeness of those that score highest."""
        addresses = [address for _, address in self.searcher.search(query, limit, count=False).hits]
        ranks = self.searcher.fast_field_values(schema.CLOSENESS, addresses)
        return [(self._name(address), int(rank or 0)) for address, rank in zip(addresses, ranks, strict=True)]

    def document_frequency(self, field: str, word: str) -> int:
        """How many models have this word in this field."""
        return int(self.searcher.doc_freq(field, word))

    def aggregate(self, query: tantivy.Query, wanted: dict[str, Any]) -> dict[str, Any]:
        """Counts over everything that matches, in one pass."""
        return dict(self.searcher.aggregate(query, wanted))

    def _of_tier(self, number: int, tier: Tier, after: Hit | None, limit: int) -> list[Hit]:
        if tier.value is None:
            return self._ranked(number, tier.query, tier.rank, after, limit)
        hits: list[Hit] = []
        query = tier.query
        if after is not None:
            same = both(query, self.between(tier.value, after.value, after.value))
            hits = self._ranked(number, same, tier.rank, after, limit, after.value)
            ends = (None, after.value - 1) if tier.descending else (after.value + 1, None)
            query = both(query, self.between(tier.value, *ends))
        if len(hits) < limit:
            hits += self._by_value(number, query, tier, limit - len(hits))
        return hits

    def _by_value(self, number: int, query: tantivy.Query, tier: Tier, limit: int) -> list[Hit]:
        """The first hits by a number, then rank. The engine orders by one field: whose number is the last one's may be
        cut anywhere, so these are asked for again by rank."""
        order = tantivy.Order.Desc if tier.descending else tantivy.Order.Asc
        found = self.searcher.search(query, limit, count=False, order_by_field=tier.value, order=order).hits
        if not found:
            return []
        last = int(found[-1][0])
        whole = [(int(value), address) for value, address in found if int(value) != last]
        ranks = self.searcher.fast_field_values(tier.rank, [address for _, address in whole])
        hits = [
            Hit(number, value, int(rank or 0), self._name(address))
            for (value, address), rank in zip(whole, ranks, strict=True)
        ]
        hits.sort(key=lambda hit: (-hit.value if tier.descending else hit.value, -hit.rank, hit.name))
        assert tier.value is not None  # noqa: S101 - only then it is asked for
        same = both(query, self.between(tier.value, last, last))
        return hits + self._ranked(number, same, tier.rank, None, limit - len(hits), last)

    def _ranked(
        self, number: int, query: tantivy.Query, rank: str, after: Hit | None, limit: int, value: int = 0
    ) -> list[Hit]:
        if after is not None:
            query = both(query, self.between(rank, None, after.rank))
        found = self.searcher.search(query, limit + _SLACK, count=False, order_by_field=rank).hits
        hits = [Hit(number, value, int(key), self._name(address)) for key, address in found]
        hits.sort(key=lambda hit: (-hit.rank, hit.name))
        if after is not None:
            hits = [hit for hit in hits if (-hit.rank, hit.name) > (-after.rank, after.name)]
        return hits[:limit]

    def _name(self, address: tantivy.DocAddress) -> str:
        return str(self.searcher.doc(address)[schema.NAME][0])


def both(*queries: tantivy.Query) -> tantivy.Query:
    """What all of them match."""
    return tantivy.Query.boolean_query([(tantivy.Occur.Must, query) for query in queries])


def either(queries: Sequence[tantivy.Query]) -> tantivy.Query:
    """What any of them matches; nothing where there is none."""
    if not queries:
        return tantivy.Query.empty_query()
    return tantivy.Query.boolean_query([(tantivy.Occur.Should, query) for query in queries])


def without(query: tantivy.Query, excluded: Sequence[tantivy.Query]) -> tantivy.Query:
    """What the first matches and none of the others."""
    return tantivy.Query.boolean_query(
        [(tantivy.Occur.Must, query), *((tantivy.Occur.MustNot, other) for other in excluded)]
    )
