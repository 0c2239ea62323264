"""Prices are stored once, and a quote keeps the one it was made with."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from modelyard.billing.v1 import billing_pb2

from chassis.database import Database
from chassis.errors import DependencyUnavailable, RequestIdReused
from services.billing.domain.errors import (
    OfferNotAvailable,
    PriceListInvalid,
    PriceNotFound,
)
from services.billing.domain.prices import OfferKind
from services.billing.rpc.convert import quote_to_proto
from services.billing.storage.tables import PriceRow, QuoteRow
from services.billing.usecases.create_quote import Ask, Offered, create_quote
from services.billing.usecases.post_usage import post_usage
from services.billing.usecases.prices import load_price_lists, store_prices
from services.billing.usecases.read_bill import get_bill
from tests.clock import START, ManualClock
from tests.conftest import DatabaseFactory
from tests.integration.billing.build import (
    MODEL,
    PROJECT,
    TOKENS_PRICE,
    count_of,
    hour_price,
    ledger_with_prices,
    outbox,
    rows_of,
    tokens_price,
    usage,
)

TALKER = Offered(OfferKind.SERVERLESS, f"{MODEL}/versions/1", "", 0, None)
SMALL = Offered(OfferKind.MANAGED, "", "instanceTypes/small", 2, None)
REFUSED = OfferNotAvailable("no engine")

LIST = """
list: test
version: "1"
currency: USD
effective: 2026-01-01
prices:
  - {resource: publishers/acme/models/talker, per_million_input_tokens: "0.3", source: a test}
"""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def answering(offered: Offered) -> Ask:
    """The catalog, saying this."""

    async def ask() -> Offered:
        return offered

    return ask


async def quote(
    database: Database, clock: ManualClock, ask: Ask | None = None, request_id: str = "", parent: str = "shop"
) -> billing_pb2.Quote:
    return await create_quote(
        database,
        clock,
        billing_pb2.CreateQuoteRequest(
            parent=f"projects/{parent}", model_version=f"{MODEL}/versions/1", request_id=request_id
        ),
        principal="user:ann",
        project_uid=PROJECT,
        project="shop",
        ask_catalog=ask or answering(TALKER),
        to_proto=quote_to_proto,
        valid_s=3600,
    )


async def test_a_list_is_loaded_once(make_database: DatabaseFactory, tmp_path: Path) -> None:
    """Loading the same files again adds nothing."""
    database = await ledger_with_prices(make_database)
    (tmp_path / "a.yaml").write_text(LIST.replace("list: test", "list: another"))
    assert [await load_price_lists(database, tmp_path) for _ in range(2)] == [1, 0]


async def test_an_edited_list_is_refused(make_database: DatabaseFactory, tmp_path: Path) -> None:
    """A price that was loaded never changes; the message names it."""
    database = await ledger_with_prices(make_database, hour_price())
    (tmp_path / "a.yaml").write_text(LIST)
    await load_price_lists(database, tmp_path)
    (tmp_path / "a.yaml").write_text(LIST.replace('"0.3"', '"0.2"'))
    with pytest.raises(PriceListInvalid, match="test@1/talker"):
        await load_price_lists(database, tmp_path)


async def test_two_prices_never_share_a_version(make_database: DatabaseFactory) -> None:
    """Two publishers' models of one name in one list would be told apart by nothing: refused, none is stored."""
    database = await ledger_with_prices(make_database, hour_price())
    twin = replace(tokens_price(), resource="publishers/other/models/talker")
    with pytest.raises(PriceListInvalid, match="publishers/other/models/talker"):
        await store_prices(database, [tokens_price(), twin])
    assert await count_of(database, PriceRow) == 1


async def test_prices_have_one_currency(make_database: DatabaseFactory) -> None:
    """A bill has one total, so a second currency is refused, also one that comes later."""
    database = await ledger_with_prices(make_database)
    with pytest.raises(PriceListInvalid, match="EUR and USD"):
        await store_prices(database, [replace(tokens_price("test@2/talker"), currency="EUR")])


async def test_a_quote_says_the_current_rates(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Rates, price version and how long it holds; the event waits in the same transaction."""
    database = await ledger_with_prices(make_database)
    made = await quote(database, clock)
    assert made.price_version == TOKENS_PRICE
    assert [(rate.amount, rate.per) for rate in made.rates] == [("0.3", 1_000_000), ("0.6", 1_000_000)]
    assert made.expire_time.ToDatetime() - made.create_time.ToDatetime() == timedelta(hours=1)
    assert len(await outbox(database, "event", "modelyard.billing.v1.quote.created.")) == 1


async def test_a_model_on_a_type_is_quoted_together(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """The core-hour is the type's; the quote says what is to run on it."""
    database = await ledger_with_prices(make_database)
    made = await quote(database, clock, answering(replace(SMALL, model_version=f"{MODEL}/versions/1")))
    assert (made.instance_type, made.model_version, made.vcpus) == (SMALL.instance_type, TALKER.model_version, 2)
    assert made.kind == billing_pb2.OFFER_KIND_MANAGED


async def test_a_repeated_request_gets_the_first_answer(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """One quote a request id, also when the model may not be deployed any more."""
    database = await ledger_with_prices(make_database)
    first = await quote(database, clock, request_id="once")
    clock.advance(10)
    again = await quote(database, clock, answering(replace(TALKER, refusal=REFUSED)), request_id="once")
    assert again == first
    assert await count_of(database, QuoteRow) == 1


async def test_a_repeated_request_does_not_need_the_catalog(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """The stored answer is given while the catalog is away."""
    database = await ledger_with_prices(make_database)
    first = await quote(database, clock, request_id="once")

    async def away() -> Offered:
        raise DependencyUnavailable("the catalog is away")

    assert await quote(database, clock, away, request_id="once") == first


async def test_a_request_id_is_for_one_request(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Another request under the same id is refused."""
    database = await ledger_with_prices(make_database)
    await quote(database, clock, request_id="once")
    with pytest.raises(RequestIdReused):
        await quote(database, clock, request_id="once", parent="other")


@pytest.mark.parametrize(
    ("offered", "refusal"),
    [
        (replace(TALKER, refusal=REFUSED), OfferNotAvailable),
        (replace(TALKER, model_version="publishers/acme/models/mute/versions/1"), PriceNotFound),
        (replace(SMALL, vcpus=4), OfferNotAvailable),
    ],
)
async def test_what_cannot_be_deployed_gets_no_quote(
    make_database: DatabaseFactory, clock: ManualClock, offered: Offered, refusal: type[Exception]
) -> None:
    """Each refusal has its own reason, and leaves no quote behind."""
    database = await ledger_with_prices(make_database)
    with pytest.raises(refusal):
        await quote(database, clock, answering(offered))
    assert await count_of(database, QuoteRow) == 0


async def test_a_newer_list_is_quoted_from_its_day_on(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Not a moment before."""
    database = await ledger_with_prices(make_database)
    await store_prices(database, [tokens_price("test@2/talker", effective=START + timedelta(hours=1))])
    before = await quote(database, clock)
    clock.advance(3600)
    after = await quote(database, clock)
    assert [before.price_version, after.price_version] == [TOKENS_PRICE, "test@2/talker"]


async def test_usage_is_rated_by_the_version_it_carries(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """A newer list version changes nothing of a deployment that stands on an older one."""
    database = await ledger_with_prices(make_database)
    await store_prices(database, [tokens_price("test@2/talker", amount="999")])
    await post_usage(database, clock, [usage(1, quantities=((1, 1_000_000),))])
    (line,) = (await get_bill(database, clock, PROJECT, "")).lines
    assert str(line.amount) == "0.300000"


async def test_a_quote_keeps_its_price(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """What was quoted is stored with its version and expiry; nothing of a newer list touches it."""
    database = await ledger_with_prices(make_database)
    await quote(database, clock)
    await store_prices(database, [tokens_price("test@2/talker", amount="999")])
    (row,) = await rows_of(database, QuoteRow)
    assert (row.price_version, row.expire_time) == (TOKENS_PRICE, START + timedelta(hours=1))


async def test_two_requests_at_once_make_one_quote(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """The same request id on two pools: both get the same answer."""
    databases = [await ledger_with_prices(make_database), await ledger_with_prices(make_database)]
    first, second = await asyncio.gather(*(quote(database, clock, request_id="once") for database in databases))
    assert first == second
    assert await count_of(databases[0], QuoteRow) == 1


async def test_a_quote_repeats_who_answers_for_the_model(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """As the catalog said then; it is kept with the quote."""
    database = await ledger_with_prices(make_database, tokens_price())
    supported = replace(TALKER, supported_by="Acme", support_contact="help@acme.example", sla="99 %")
    made = await quote(database, clock, answering(supported), "once")
    again = await quote(database, clock, answering(TALKER), "once")
    for one in (made, again):
        assert (one.supported_by, one.support_contact, one.sla) == ("Acme", "help@acme.example", "99 %")
