"""SearchModels: what is found, in what order, narrowed by what, and who sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from modelyard.catalog.v1 import search_pb2
from sqlalchemy import insert, update

from chassis.access import Caller
from chassis.access.caller import CallerKind
from chassis.database import Database
from chassis.errors import InvalidArgument, PageTokenInvalid
from services.catalog.domain.benchmarks import TokenPrice
from services.catalog.domain.records import License, Lifecycle
from services.catalog.main import MIGRATIONS
from services.catalog.storage.queries.pages import table
from services.catalog.storage.tables import CHASSIS, ModelRow, SeenPriceRow
from services.catalog.usecases.learn_prices import learn_prices
from tests.conftest import DatabaseFactory
from tests.integration.catalog.searching import Searched, add_collections, ids_of, record, searched, where

MODELS = (
    record("mistral-nemo-instruct-2407", "mistralai", tags=("conversational",), context_tokens=131072),
    record(
        "nemo-tuned",
        "somebody",
        collection="hub",
        license=License(id="Apache-2.0"),
        tags=("mistral",),
        deployment_options=("MANAGED", "SERVERLESS"),
        languages=("de", "en"),
        usability="RUNS_HERE",
        context_tokens=4096,
        parameter_count=7_000_000_000,
    ),
    record(
        "whisper-tiny",
        "openai",
        license=License(id="Apache-2.0"),
        inference_tasks=("automatic-speech-recognition",),
        input_modalities=("audio",),
        output_modalities=("text",),
        industries=("media",),
        capabilities=("streaming",),
        card="# Whisper\n\nIt turns **recordings** into text, in many languages.",
        parameter_count=39_000_000,
        size_bytes=75_000_000,
        release_date="2022-09-21",
    ),
    record(
        "painter",
        "studio",
        output_modalities=("image",),
        fine_tune_tasks=("text-to-image",),
        card="A painter; ask it for a portrait of a mistral wind.",
        parameter_count=900_000_000,
    ),
    record("old-timer", "acme", lifecycle=Lifecycle(legacy=date(2026, 1, 10), deprecation=date(2026, 1, 16))),
    record("new-comer", "acme", lifecycle=Lifecycle(preview=True)),
)
PRICES = [
    {"model": "publishers/openai/models/whisper-tiny", "input_nanos": 150_000_000},
    {"model": "publishers/studio/models/painter", "input_nanos": 2_500_000_000},
]
EVERY = sorted(one.model for one in MODELS)


@pytest_asyncio.fixture(scope="module")
async def search(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Searched]:
    """One catalog for all tests that only ask; what they ask of its database is the same on every kind."""
    folder = tmp_path_factory.mktemp("search")
    database = Database(f"sqlite+aiosqlite:///{folder / 'catalog.db'}", CHASSIS)
    await database.migrate(MIGRATIONS)
    async with filled(database, folder / "index") as replica:
        yield replica
    await database.dispose()


@pytest_asyncio.fixture
async def own_search(make_database: DatabaseFactory, tmp_path: Path) -> AsyncIterator[Searched]:
    """A catalog of the test's own, to change things in."""
    async with filled(await make_database(CHASSIS, MIGRATIONS), tmp_path / "index") as replica:
        yield replica


@asynccontextmanager
async def filled(database: Database, folder: Path) -> AsyncIterator[Searched]:
    await add_collections(database)
    async with database.unit_of_work() as uow:
        await uow.session.execute(insert(table(SeenPriceRow)), PRICES)
    async with searched(database, folder, memberships={"user:ann": ["p-1"]}) as replica:
        await replica.put(*MODELS)
        await replica.catch_up()
        yield replica


@pytest.mark.parametrize(
    ("query", "first", "reason"),
    [
        ("Mistral Nemo Instruct 2407", "mistral-nemo-instruct-2407", search_pb2.MATCH_REASON_EXACT_NAME),
        ("mistralai/mistral-nemo-instruct-2407", "mistral-nemo-instruct-2407", search_pb2.MATCH_REASON_EXACT_NAME),
        ("mistral nemo", "mistral-nemo-instruct-2407", search_pb2.MATCH_REASON_NAME_BEGINS),
        ("instruct nemo", "mistral-nemo-instruct-2407", search_pb2.MATCH_REASON_NAME),
        ("openai tiny", "whisper-tiny", search_pb2.MATCH_REASON_PUBLISHER),
        ("speech recognition", "whisper-tiny", search_pb2.MATCH_REASON_LABELS),
        ("recordings into languages", "whisper-tiny", search_pb2.MATCH_REASON_CARD),
        ("mistrl nemo instrct", "mistral-nemo-instruct-2407", search_pb2.MATCH_REASON_NEAR),
        ("wihsper", "whisper-tiny", search_pb2.MATCH_REASON_NEAR),
        ("oldtimer", "old-timer", search_pb2.MATCH_REASON_NEAR),
        ("pain ter", "painter", search_pb2.MATCH_REASON_NEAR),
        ("instruc", "mistral-nemo-instruct-2407", search_pb2.MATCH_REASON_NEAR),
        ("recordings text zebra", "whisper-tiny", search_pb2.MATCH_REASON_MOST_WORDS),
    ],
)
async def test_words_find_models(search: Searched, query: str, first: str, reason: int) -> None:
    """Whole, in another order, in tags, tasks and cards, misspelt, run together or apart; and it is said why."""
    found = (await search.ask(query)).results[0]
    assert (found.model.name.rpartition("/")[2], found.reason) == (first, reason)


async def test_better_places_come_first(search: Searched) -> None:
    """The name before tags, tags before the card."""
    assert await search.names("mistral") == ["mistral-nemo-instruct-2407", "nemo-tuned", "painter"]


async def test_what_was_meant_is_suggested(search: Searched) -> None:
    """In the words of the nearest names."""
    response = await search.ask("mistrl nemo instrct")
    assert response.suggestions[0] == "mistral nemo instruct"
    assert response.results[0].distance == 2


async def test_it_is_said_where_words_stand(search: Searched) -> None:
    """Each word once, at its most telling place."""
    (found,) = (await search.ask("whisper recordings openai")).results
    assert [(match.field, list(match.words)) for match in found.matches] == [
        ("name", ["whisper"]),
        ("publisher", ["openai"]),
        ("card", ["recordings"]),
    ]
    assert found.matches[2].text == "# Whisper It turns **recordings** into text, in many languages."


FILTERS = [
    (("collection", "=", "hub"), ["nemo-tuned"]),
    (("collection", "!=", "curated"), ["nemo-tuned"]),
    (("publisher", "=", "OpenAI"), ["whisper-tiny"]),
    (("publisher", ">", "openai"), ["nemo-tuned", "painter"]),
    (("publisher", "<", "b"), ["new-comer", "old-timer"]),
    (("license", "=", "apache-2.0"), ["nemo-tuned", "whisper-tiny"]),
    (("license", "in", "MIT", "nothing"), ["mistral-nemo-instruct-2407", "new-comer", "old-timer", "painter"]),
    (("inference_task", "=", "automatic-speech-recognition"), ["whisper-tiny"]),
    (("fine_tune_task", "=", "text-to-image"), ["painter"]),
    (("deployment_option", "=", "serverless"), ["nemo-tuned"]),
    (("modality", "=", "text"), ["whisper-tiny"]),
    (("input_modality", "=", "audio"), ["whisper-tiny"]),
    (("output_modality", "in", "image", "audio"), ["painter"]),
    (("language", "=", "de"), ["nemo-tuned"]),
    (("language", "!=", "de"), [name for name in EVERY if name != "nemo-tuned"]),
    (("industry", "=", "media"), ["whisper-tiny"]),
    (("capability", "=", "streaming"), ["whisper-tiny"]),
    (("usability", "=", "runs-here"), ["nemo-tuned"]),
    (("tag", "=", "Mistral"), ["nemo-tuned"]),
    (("context_tokens", ">", "4096"), ["mistral-nemo-instruct-2407"]),
    (("context_tokens", "<", "128k"), ["nemo-tuned"]),
    (("context_tokens", "in", "4096", "131072"), ["mistral-nemo-instruct-2407", "nemo-tuned"]),
    (("context_tokens", "!=", "4096"), [name for name in EVERY if name != "nemo-tuned"]),
    (("parameter_count", "<", "1B"), ["painter", "whisper-tiny"]),
    (("parameter_count", "=", "7B"), ["nemo-tuned"]),
    (("size_bytes", ">", "1M"), ["whisper-tiny"]),
    (("input_price", "<", "1"), ["whisper-tiny"]),
    (("input_price", ">", "0.15"), ["painter"]),
    (("output_price", ">", "0"), []),
    (("release_date", "<", "2023-01-01"), ["whisper-tiny"]),
    (("create_time", "=", "2026-01-15"), EVERY),
    (("stage", "=", "legacy"), ["old-timer"]),
    (("stage", "<", "ga"), ["new-comer"]),
    (("stage", "!=", "ga"), ["new-comer", "old-timer"]),
]


@pytest.mark.parametrize(
    ("condition", "expected"), FILTERS, ids=lambda value: " ".join(value) if type(value) is tuple else ""
)
async def test_every_facet_can_be_filtered(search: Searched, condition: tuple[str, ...], expected: list[str]) -> None:
    """By every way to compare; what has no value is neither greater nor less."""
    assert sorted(await search.names("", where(*condition))) == expected


async def test_filters_hold_together_and_with_words(search: Searched) -> None:
    """All of them."""
    cheap = where("license", "=", "apache-2.0"), where("parameter_count", "<", "1B")
    assert await search.names("", *cheap) == ["whisper-tiny"]
    assert await search.names("nemo", *cheap) == []


async def test_filters_that_leave_nothing_are_told(search: Searched) -> None:
    """How many there were without them."""
    response = await search.ask("mistral", where("language", "=", "fi"))
    assert (response.total_count, response.unfiltered_count) == (0, 3)


async def test_a_stage_is_that_of_the_moment(own_search: Searched) -> None:
    """Its day comes without any change of the model."""
    assert await own_search.names("", where("stage", "=", "deprecated")) == []
    own_search.clock.advance(86_400)
    assert await own_search.names("", where("stage", "=", "deprecated")) == ["old-timer"]
    response = await own_search.ask(facets=["stage"])
    assert {value.value: value.count for value in response.facet_counts[0].values} == {
        "preview": 1,
        "ga": 4,
        "deprecated": 1,
    }


async def test_orders_by_numbers(search: Searched) -> None:
    """Either way round; what has no value comes last."""
    upwards = await search.names(order_by="parameter_count")
    assert upwards[:3] == ["whisper-tiny", "painter", "nemo-tuned"]
    downwards = await search.names(order_by="parameter_count desc")
    assert downwards[:3] == upwards[2::-1]
    assert upwards[3:] == downwards[3:]


@pytest.mark.parametrize("order_by", ["", "parameter_count", "create_time desc"])
@pytest.mark.parametrize("query", ["", "mistral", "mistrl"])
async def test_pages_give_each_model_once(search: Searched, query: str, order_by: str) -> None:
    """Whatever the size of a page."""
    whole = ids_of(await search.ask(query, order_by=order_by))
    for size in (1, 2, 3):
        assert await search.all_pages(query, page_size=size, order_by=order_by) == whole


async def test_pages_stand_still_while_others_come(own_search: Searched) -> None:
    """A model that is added between two pages neither repeats nor hides one of those that were there."""
    first = await own_search.ask(page_size=3)
    await own_search.put(*(record(f"late-{number}", "aaa") for number in range(9)))
    await own_search.catch_up()
    rest = await own_search.all_pages(page_size=50)
    second = await own_search.ask(page_size=50, page_token=first.next_page_token)
    seen = [name for name in ids_of(first) + ids_of(second) if not name.startswith("late-")]
    assert sorted(seen) == EVERY
    assert len(rest) == len(EVERY) + 9


async def test_a_token_is_bound_to_its_question(search: Searched) -> None:
    """Another query, filter or order begins anew."""
    token = (await search.ask("", where("license", "=", "mit"), page_size=1)).next_page_token
    for query, filters, order in (("x", (), ""), ("", (where("license", "=", "gpl"),), ""), ("", (), "create_time")):
        with pytest.raises(PageTokenInvalid):
            await search.ask(query, *filters, order_by=order, page_token=token)


async def test_own_models_are_seen_by_members_alone(own_search: Searched) -> None:
    """In results and in counts; an admin sees all."""
    models = table(ModelRow)
    async with own_search.database.unit_of_work() as uow:
        for model, project in (("openai/models/whisper-tiny", "p-1"), ("studio/models/painter", "p-2")):
            change = update(models).where(models.c.name == f"publishers/{model}")
            await uow.session.execute(
                change.values(project_uid=project, change_sequence=models.c.change_sequence + 100)
            )
    await own_search.catch_up()
    seen = {}
    for caller in (
        Caller("user:ann", CallerKind.USER),
        Caller("user:bob", CallerKind.USER),
        Caller("inference", CallerKind.SERVICE),
        Caller("admin", CallerKind.USER, is_admin=True),
    ):
        own_search.caller = caller
        response = await own_search.ask(facets=["collection"])
        assert sum(value.count for value in response.facet_counts[0].values) == response.total_count
        seen[caller.principal] = sorted({"painter", "whisper-tiny"} & set(ids_of(response)))
    assert seen == {"user:ann": ["whisper-tiny"], "user:bob": [], "inference": [], "admin": ["painter", "whisper-tiny"]}


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"query": "x" * 513}, "query", "513 characters; at most 512"),
        ({"query": "a " * 25}, "query", "25 words; at most 24"),
        ({"query": "?!"}, "query", "no words"),
        ({"filters": [where("license", "=", "mit")] * 25}, "filters", "25 filters; at most 24"),
        ({"filters": [where("colour", "=", "red")]}, "filters.field", "'colour' is no facet"),
        ({"filters": [where("license", "=", "a", "b")]}, "filters.values", "exactly one"),
        ({"filters": [where("license", "in")]}, "filters.values", "0 values; 'in' takes 1 to 100"),
        ({"filters": [where("license", "=", "x" * 257)]}, "filters.values", "257 characters; 256 are"),
        ({"filters": [where("context_tokens", ">", "many")]}, "filters.values", "'many' is not a whole number"),
        ({"filters": [where("input_price", "<", "0.0000000001")]}, "filters.values", "at most 9 decimals"),
        ({"filters": [where("create_time", "<", "yesterday")]}, "filters.values", "a day such as"),
        ({"filters": [where("stage", "=", "beta")]}, "filters.values", "preview, ga, legacy"),
        ({"filters": [search_pb2.Filter(field="license", values=["mit"])]}, "filters", "operator 0"),
        ({"order_by": "license"}, "order_by", "a field of context_tokens"),
        ({"order_by": "context_tokens down"}, "order_by", "'context_tokens down' is not of the form"),
        ({"facets": ["license", "license"]}, "facets", "one twice"),
        ({"facets": ["colour"]}, "facets", "'colour' is no facet"),
        ({"facet_values_max": 101}, "facet_values_max", "101 is not within 0 to 100"),
        ({"page_size": -1}, "page_size", "-1"),
    ],
)
async def test_what_cannot_be_asked_is_refused(search: Searched, fields: dict[str, Any], field: str, said: str) -> None:
    """With the value, the limit and the field."""
    with pytest.raises(InvalidArgument) as refused:
        await search.servicer.SearchModels(search_pb2.SearchModelsRequest(**fields), None)
    assert refused.value.field == field
    assert said in refused.value.message


async def test_prices_are_learned_from_billing(own_search: Searched) -> None:
    """New, changed and withdrawn ones; a second time nothing changes."""
    heard = {
        "publishers/openai/models/whisper-tiny": TokenPrice(Fraction(3), None),
        "publishers/somebody/models/nemo-tuned": TokenPrice(Fraction("0.05"), Fraction("0.2")),
        "publishers/nobody/models/unknown": TokenPrice(Fraction(1), None),
    }
    assert await learn_prices(own_search.database, heard) == 4
    assert await learn_prices(own_search.database, heard) == 0
    await own_search.catch_up()
    response = await own_search.ask(order_by="input_price", page_size=3)
    assert ids_of(response)[:2] == ["nemo-tuned", "whisper-tiny"]
    assert (await own_search.ask("", where("input_price", ">", "0"))).total_count == 2
    assert await own_search.names("", where("output_price", "=", "0.2")) == ["nemo-tuned"]
