"""Whatever is asked: counts are what filters give, pages give each model once, the distance is the true one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.hub.models import hub_models
from services.catalog.domain.search import FACETS, FacetKind, Limits, Operator, Question, read_filter, read_order
from services.catalog.domain.words import distance, plain, words_of
from services.catalog.search.ask import Answer, answer
from services.catalog.search.documents import Names, document_of
from services.catalog.search.index import SearchIndex
from services.catalog.search.reader import Hit, Position, Reader
from services.catalog.search.schema import text_analyzer
from services.catalog.storage.queries.changes import ChangedModel

COUNT = 300
NOW = datetime(2026, 1, 15, tzinfo=UTC)
NAMES = Names({"curated": "CURATED", "hugging-face": "HUB"}, {"curated": "Curated", "hugging-face": "Hub"}, {})
QUERIES = ("", "llama", "gguf", "learning rate", "mistrl", "7b instruct", "accuracy of german reports zebra")
ORDERS = ("", "context_tokens", "parameter_count desc", "input_price")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """COUNT models, in segments of all sizes, a third of them replaced."""
    index = SearchIndex(tmp_path_factory.mktemp("index"), 15_000_000)
    models = [changed(number, record) for number, record in enumerate(hub_models(COUNT), start=1)]
    rng = random.Random(1)
    for batch in (models[:200], models[200:290], models[290:], rng.sample(models, COUNT // 3)):
        index.put([(model.name, document_of(model, NAMES, 10_000)) for model in batch])
        index.commit(Position(len(batch), "x"))
    assert index.document_count == COUNT
    yield index.reader()
    index.close()


def changed(number: int, record: object) -> ChangedModel:
    facts = msgspec.to_builtins(record)
    lifecycle = facts["versions"][0].get("lifecycle", {})
    return ChangedModel(
        change_sequence=number,
        first_sequence=number,
        name=f"publishers/{facts['publisher']}/models/{facts['model']}",
        project_uid="",
        publisher=facts["publisher"],
        collection=facts["collection"],
        display_name=facts["display_name"],
        license_id=facts["license"]["id"],
        usability=facts["usability"],
        facts=facts,
        withdrawn=False,
        create_time=NOW - timedelta(days=number % 7),
        card=facts["card"],
        preview=lifecycle.get("preview", False),
        legacy_date=lifecycle.get("legacy", ""),
        deprecation_date=lifecycle.get("deprecation", ""),
        retirement_date=lifecycle.get("retirement", ""),
        stage=1,
        input_price=number % 5 * 10**8 if number % 3 else None,
        output_price=None,
    )


def ask(
    reader: Reader,
    query: str,
    *filters: tuple[str, Operator, str],
    order: str = "",
    facet: str | None = None,
    values: int = 1000,
    after: Hit | None = None,
    limit: int = 1000,
) -> Answer:
    question = Question(
        text=query,
        filters=tuple(read_filter(name, operator, [value], Limits()) for name, operator, value in filters),
        order=read_order(order),
        facets=(FACETS[facet],) if facet else (),
        facet_values=values,
    )
    return answer(reader, question, (), after=after, limit=limit, now=NOW, near_max=60, near_below=0)


@given(query=st.sampled_from(QUERIES), facet=st.sampled_from(sorted(FACETS)))
@settings(max_examples=50, deadline=None)
def test_counts_are_what_filters_give(reader: Reader, query: str, facet: str) -> None:
    """Each value's count is the number of models that the filter on it leaves."""
    whole = ask(reader, query, facet=facet)
    (counts,) = whole.facets
    for value in counts.values:
        if FACETS[facet].is_number:
            found = within(reader, query, facet, value.least, value.below)
        else:
            found = ask(reader, query, (facet, Operator.EQ, value.value)).total
        assert found == value.count, value
    if FACETS[facet].kind is not FacetKind.TEXT:
        assert sum(value.count for value in counts.values) + counts.without_value == whole.total


def within(reader: Reader, query: str, facet: str, least: str, below: str) -> int:
    """Models of a range. Filters leave out the value they name and a range begins with it, so that one is asked apart."""
    ends = ((Operator.GT, least), (Operator.LT, below))
    inside = [(facet, operator, end) for operator, end in ends if end]
    edge = ask(reader, query, (facet, Operator.EQ, least)).total if least else 0
    return ask(reader, query, *inside).total + edge


@given(query=st.sampled_from(QUERIES), facet=st.sampled_from(sorted(FACETS)), most=st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_few_values_are_the_first_of_all(reader: Reader, query: str, facet: str, most: int) -> None:
    """However few are asked for, ones that none beats, and the same count of models without any."""
    (whole,), (few,) = (ask(reader, query, facet=facet, values=count).facets for count in (1000, most))
    assert few.without_value == whole.without_value
    if FACETS[facet].kind is FacetKind.TEXT:
        assert [value.count for value in few.values] == [value.count for value in whole.values[:most]]
        assert set(few.values) <= set(whole.values)
        assert few.more == (len(whole.values) > most)


@given(query=st.sampled_from(QUERIES), order=st.sampled_from(ORDERS), size=st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_pages_give_each_model_once_in_one_order(reader: Reader, query: str, order: str, size: int) -> None:
    """As one large page does, and as many as the total says."""
    whole = [found.hit.name for found in ask(reader, query, order=order).found]
    assert len(set(whole)) == len(whole) == ask(reader, query, order=order, limit=1).total
    seen: list[str] = []
    after: Hit | None = None
    while page := ask(reader, query, order=order, after=after, limit=size).found:
        seen += [found.hit.name for found in page]
        after = page[-1].hit
    assert seen == whole


WORDS = st.text("abc", max_size=8)


@given(left=WORDS, right=WORDS)
def test_distance_is_optimal_string_alignment(left: str, right: str) -> None:
    """As its definition counts it, cell by cell."""

    @cache
    def cell(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        differs = left[i - 1] != right[j - 1]
        best = min(cell(i - 1, j) + 1, cell(i, j - 1) + 1, cell(i - 1, j - 1) + differs)
        if i > 1 and j > 1 and left[i - 1] == right[j - 2] and left[i - 2] == right[j - 1]:
            best = min(best, cell(i - 2, j - 2) + 1)
        return best

    assert distance(left, right) == cell(len(left), len(right))


# What Python's tables do not know yet, the engine's may.
ASSIGNED = st.characters(exclude_categories=("Cn", "Cs", "Co"))


@given(text=st.text(ASSIGNED, max_size=25))
@settings(max_examples=300)
def test_the_engine_cuts_the_same_words(text: str) -> None:
    """What is found in a card is what is asked for: whoever cuts it, letters of any script, numbers, accents."""
    assert text_analyzer().analyze(plain(text)) == words_of(text)
