"""Find models: the index says which and in what order, the database what they are."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from chassis.clock import Clock
from chassis.database import Database
from services.catalog.domain.errors import SearchUnavailable
from services.catalog.domain.highlights import Highlight, highlights
from services.catalog.domain.names import id_of
from services.catalog.domain.search import Question, Reason
from services.catalog.domain.words import telling_words, words_of
from services.catalog.search.ask import Answer, FoundModel, answer
from services.catalog.search.index import IndexDamaged
from services.catalog.search.reader import Hit, Reader
from services.catalog.storage.queries.changes import cards
from services.catalog.storage.queries.models import models, versions
from services.catalog.storage.tables import ModelRow, VersionRow
from services.catalog.usecases.project_search import SearchProjection

# Lists of a model's facts that are shown as where a word stands, in that order.
_LABELS = {
    "tags": ("tags",),
    "tasks": ("inference_tasks", "fine_tune_tasks", "tasks"),
    "capabilities": ("capabilities",),
    "industries": ("industries",),
}
# The others are explained without it.
_READ_IN_CARDS = (Reason.LISTED, Reason.CARD, Reason.MOST_WORDS)
_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class NearLimits:
    """Names that come near are looked for where fewer than `below` models match; at most `most` of them."""

    below: int = 5
    most: int = 60


@dataclass(frozen=True, slots=True)
class Result:
    """One model that was found, with its newest version."""

    model: ModelRow
    version: VersionRow | None
    reason: Reason
    distance: int
    highlights: list[Highlight]


@dataclass(frozen=True, slots=True)
class SearchPage:
    """One page, and how far the index was when it was read.

    Attributes:
        last: The last hit where another page follows.
    """

    results: list[Result]
    last: Hit | None
    answer: Answer
    index_time: datetime | None
    pending: int


async def search_models(
    database: Database,
    clock: Clock,
    projection: SearchProjection,
    question: Question,
    projects: Collection[str] | None,
    *,
    after: Hit | None,
    limit: int,
    near: NearLimits,
) -> SearchPage:
    """The page after a hit.

    Args:
        projects: Uids of those whose own models are seen too; None sees all.

    Raises:
        SearchUnavailable: the index is damaged; try again in a moment.
    """

    def ask(reader: Reader) -> Answer:
        return answer(
            reader,
            question,
            projects,
            after=after,
            limit=limit + 1,
            now=clock.now(),
            near_max=near.most,
            near_below=near.below,
        )

    index_time, pending = projection.index_time, projection.pending
    try:
        found = await projection.search(ask)
    except IndexDamaged as error:
        raise SearchUnavailable(
            "the search index of this replica is damaged and is built anew; try again, or list models by name",
            retry_after_s=_RETRY_S,
        ) from error
    page = found.found[:limit]
    results = await _results(database, page, telling_words(words_of(question.text)))
    last = page[-1].hit if len(found.found) > limit else None
    return SearchPage(results, last, found, index_time, pending)


async def _results(database: Database, page: list[FoundModel], words: list[str]) -> list[Result]:
    names = [one.hit.name for one in page]
    async with database.reader() as session:
        rows = await models(session, names)
        newest = await versions(session, [row.latest_version for row in rows.values()])
        by_card = {one.hit.name for one in page if one.reason in _READ_IN_CARDS}
        texts = await cards(session, [rows[name].uid for name in by_card if name in rows]) if words else {}
    return [
        Result(
            model=row,
            version=newest.get(row.latest_version),
            reason=one.reason,
            distance=one.distance,
            highlights=highlights(words, _texts(row, texts.get(row.uid, ""))),
        )
        for one in page
        if (row := rows.get(one.hit.name)) is not None
    ]


def _texts(row: ModelRow, card: str) -> Iterator[tuple[str, str]]:
    yield "name", f"{row.display_name} ({id_of(row.name)})"
    yield "publisher", row.publisher
    for field, keys in _LABELS.items():
        yield field, ", ".join(dict.fromkeys(value for key in keys for value in row.facts.get(key, ())))
    yield "license", row.license_id
    yield "collection", row.collection
    yield "summary", row.facts.get("summary", "")
    yield "card", card
