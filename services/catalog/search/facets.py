"""How many of the found models have each value of a facet; exact, whatever the number of values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import pairwise
from typing import Any

import tantivy

from services.catalog.domain.lifecycle import Stage
from services.catalog.domain.search import STAGE_WORDS, Facet, FacetKind, value_words
from services.catalog.search.filters import reached, stage_query
from services.catalog.search.reader import Reader, both
from services.catalog.search.schema import NO_VALUE

# Days are counted by year: this one, and so many before it.
_YEARS = 5
# Values that are counted in each segment. Fewer would be faster where there are more, and wrong.
_SEGMENT_VALUES_MAX = 10_000_000
_LATE = (Stage.LEGACY, Stage.DEPRECATED, Stage.RETIRED)


@dataclass(frozen=True, slots=True)
class FacetValue:
    """One value, or one range of numbers from `least` up to and without `below`.

    `least` and `below` are empty where the range is open, and for values that are no ranges.
    """

    value: str
    count: int
    least: str = ""
    below: str = ""


@dataclass(frozen=True, slots=True)
class FacetCounts:
    """Counts of a facet. A model with several values counts for each of them.

    Attributes:
        values: Most frequent first; ranges and stages in their own order.
        more: Whether there are values beyond those listed.
        without_value: Models that have none.
    """

    facet: Facet
    values: tuple[FacetValue, ...]
    more: bool
    without_value: int


def count_facets(
    reader: Reader, matched: tantivy.Query, total: int, facets: Sequence[Facet], values_max: int, now: datetime
) -> list[FacetCounts]:
    """Counts of some facets over what matched, `total` models; half of them at a time where there is a thread for it."""

    def counted(half: Sequence[Facet]) -> list[FacetCounts]:
        return _count(reader, matched, total, half, values_max, now)

    first, second = reader.together(lambda: counted(facets[::2]), lambda: counted(facets[1::2]))
    by_name = {one.facet.name: one for one in (*first, *second)}
    return [by_name[facet.name] for facet in facets]


def _count(
    reader: Reader, matched: tantivy.Query, total: int, facets: Sequence[Facet], values_max: int, now: datetime
) -> list[FacetCounts]:
    """In one pass, stages apart."""
    wanted: dict[str, Any] = {}
    for facet in facets:
        if facet.kind is FacetKind.TEXT:
            wanted[facet.name] = {
                "terms": {"field": facet.name, "size": values_max + 2, "segment_size": _SEGMENT_VALUES_MAX}
            }
        elif facet.is_number:
            wanted[facet.name] = {"range": {"field": facet.name, "ranges": _ranges(_edges(facet, now))}}
    found = reader.aggregate(matched, wanted) if wanted else {}
    return [
        _stage_counts(reader, matched, facet, total, now)
        if facet.kind is FacetKind.STAGE
        else _counts(reader, matched, facet, found[facet.name]["buckets"], values_max, total)
        for facet in facets
    ]


def _stage_counts(reader: Reader, matched: tantivy.Query, facet: Facet, total: int, now: datetime) -> FacetCounts:
    """Every model is in one stage, most of them in GA: that one is what the others leave."""

    def count(query: tantivy.Query) -> int:
        return reader.count(both(matched, query))

    legacy, deprecated, retired = (count(reached(reader, stage, now)) for stage in _LATE)
    preview = count(stage_query(reader, Stage.PREVIEW, now))
    counts = {
        Stage.PREVIEW: preview,
        Stage.GA: total - preview - legacy,
        Stage.LEGACY: legacy - deprecated,
        Stage.DEPRECATED: deprecated - retired,
        Stage.RETIRED: retired,
    }
    values = tuple(FacetValue(word, counts[stage]) for word, stage in STAGE_WORDS.items() if counts[stage])
    return FacetCounts(facet, values, False, 0)


def _counts(
    reader: Reader, matched: tantivy.Query, facet: Facet, buckets: list[Any], values_max: int, total: int
) -> FacetCounts:
    if facet.is_number:
        values = tuple(_range_value(facet, bucket) for bucket in buckets if bucket["doc_count"])
        return FacetCounts(facet, values, False, total - sum(value.count for value in values))
    without_value = next((bucket["doc_count"] for bucket in buckets if bucket["key"] == NO_VALUE), None)
    if without_value is None:
        # There may be some all the same, too few to be among the most frequent.
        without_value = reader.count(both(matched, reader.term(facet.name, NO_VALUE)))
    named = [bucket for bucket in buckets if bucket["key"] != NO_VALUE]
    named.sort(key=lambda bucket: (-bucket["doc_count"], bucket["key"]))
    return FacetCounts(
        facet,
        tuple(FacetValue(bucket["key"], bucket["doc_count"]) for bucket in named[:values_max]),
        len(named) > values_max,
        without_value,
    )


def _range_value(facet: Facet, bucket: Any) -> FacetValue:
    least = value_words(facet, int(bucket["from"])) if "from" in bucket else ""
    below = value_words(facet, int(bucket["to"])) if "to" in bucket else ""
    return FacetValue(f"{least}..{below}", bucket["doc_count"], least, below)


def _edges(facet: Facet, now: datetime) -> tuple[int, ...]:
    if facet.kind is FacetKind.DAY:
        return tuple(date(now.year - back, 1, 1).toordinal() for back in range(_YEARS - 1, -1, -1))
    return facet.edges


def _ranges(edges: Sequence[int]) -> list[dict[str, int]]:
    middle = [{"from": least, "to": below} for least, below in pairwise(edges)]
    return [{"to": edges[0]}, *middle, {"from": edges[-1]}]
