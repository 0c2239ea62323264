"""Answer one question from one state of the index."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import tantivy

from services.catalog.domain.search import Filter, Question, Reason
from services.catalog.domain.words import telling_words, words_of
from services.catalog.search import schema
from services.catalog.search.facets import FacetCounts, count_facets
from services.catalog.search.filters import every_model, required
from services.catalog.search.nearest import Near, nearest
from services.catalog.search.reader import Hit, Reader, Tier, both, either
from services.catalog.search.tiers import browsing, exact_name, matching, most_words, tiers_of

_SUGGESTIONS_MAX = 3


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A hit, why it is one, and how many letters its name lies away."""

    hit: Hit
    reason: Reason
    distance: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """One page.

    Attributes:
        total: Of all pages.
        is_total_exact: False where there may be more near names than are looked at.
        suggestions: What may have been meant, where the words as they stand match little.
        unfiltered: How many models would match without the filters; only counted where none does with them.
    """

    found: list[FoundModel]
    total: int
    is_total_exact: bool
    facets: list[FacetCounts]
    suggestions: list[str]
    unfiltered: int


def answer(
    reader: Reader,
    question: Question,
    projects: Collection[str] | None,
    *,
    after: Hit | None,
    limit: int,
    now: datetime,
    near_max: int,
    near_below: int,
) -> Answer:
    """The page after a hit.

    Args:
        projects: Uids of those whose own models are seen too; None sees all.
        near_max: Most near names that are looked at; 0 looks for none.
        near_below: Near names are looked for where fewer models than this match the words as they stand.
    """

    def look(matched: tantivy.Query, tiers: Sequence[Tier]) -> tuple[int, list[Hit]]:
        """How many there are, and the page of them."""
        return reader.together(lambda: reader.count(matched), lambda: reader.page(tiers, after, limit))

    spoken = words_of(question.text)
    words = telling_words(spoken)
    base = _base(reader, projects, question.filters, words, now)
    matched = matching(reader, base, words)
    tiers = (
        tiers_of(reader, base, words, spoken)
        if words and question.order.facet is None
        else browsing(reader, matched, question.order)
    )
    total, hits = look(matched, tiers)
    others: list[Near] = []
    if words and near_max and total < near_below and not reader.count(both(*base, exact_name(reader, words))):
        others = nearest(reader, base, matched, words, near_max)
    if not total and not others and len(words) > 2:
        matched = both(*base, most_words(reader, words))
        tiers = [Tier(matched, schema.CLOSENESS, Reason.MOST_WORDS)]
        total, hits = look(matched, tiers)
    found = [FoundModel(hit, tiers[hit.tier].reason) for hit in hits]
    near = [FoundModel(Hit(len(tiers), one.distance, one.rank, one.name), Reason.NEAR, one.distance) for one in others]
    following = [one for one in near if after is None or _order(one.hit) > _order(after)]
    found += following[: limit - len(found)]
    counted = matched
    if near and question.facets:
        names = tantivy.Query.term_set_query(reader.schema, schema.NAME, [one.hit.name for one in near])
        counted = either([matched, names])
    total += len(near)
    return Answer(
        found=found,
        total=total,
        is_total_exact=len(near) < near_max or not near,
        facets=count_facets(reader, counted, total, question.facets, question.facet_values, now),
        suggestions=list(dict.fromkeys(one.suggestion for one in others if one.suggestion))[:_SUGGESTIONS_MAX],
        unfiltered=(
            reader.count(matching(reader, _base(reader, projects, (), words, now), words))
            if not total and question.filters
            else 0
        ),
    )


def _base(
    reader: Reader, projects: Collection[str] | None, filters: Sequence[Filter], words: Sequence[str], now: datetime
) -> list[tantivy.Query]:
    """What is looked through for the words: at least one query where there are none."""
    base = required(reader, projects, filters, now)
    return base if words or projects is not None else [*base, every_model(reader)]


def _order(hit: Hit) -> tuple[int, int, int, str]:
    """Near names in order, behind every tier."""
    return hit.tier, hit.value, -hit.rank, hit.name
