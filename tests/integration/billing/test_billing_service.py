"""BillingService's lists and its watch, on a real database and the real broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from modelyard.billing.v1 import billing_pb2
from sqlalchemy import insert

from chassis.bus import Bus
from chassis.clock import Clock, check_not_behind
from chassis.database import Database
from chassis.errors import ClockBehind, PageTokenInvalid
from chassis.outbox import OutboxRelay
from chassis.paging import page_token_encode
from services.billing.domain.errors import QuoteNotFound
from services.billing.rpc.servicer import BillingServicer
from services.billing.storage import reads
from services.billing.storage.tables import CHASSIS, QuoteRow
from services.billing.usecases.post_usage import post_usage
from services.billing.usecases.prices import store_prices
from tests.clock import START, ManualClock
from tests.conftest import DatabaseFactory
from tests.infra.broker import Broker
from tests.integration.billing.build import (
    OTHER_PROJECT,
    PROJECT,
    TOKENS_PRICE,
    call_as,
    hour_price,
    ledger_with_prices,
    record_id,
    tokens_price,
    usage,
)

PARENT = "projects/shop"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def service(database: Database, clock: Clock, bus: Any = None) -> BillingServicer:
    """The service without a catalog: nothing here quotes."""
    return BillingServicer(database, bus, clock, catalog=None, quote_valid_s=60)  # type: ignore[arg-type]


async def pages(call: Callable[..., Awaitable[Any]], request: Any, field: str) -> list[list[Any]]:
    """Every page of a list."""
    found = []
    while True:
        response = await call(request, None)
        found.append(list(getattr(response, field)))
        if not response.next_page_token:
            return found
        request.page_token = response.next_page_token


async def some_quotes(database: Database, count: int, project_uid: str = PROJECT) -> None:
    async with database.unit_of_work() as uow:
        for number in range(count):
            uow.session.add(
                QuoteRow(
                    uid=record_id(number if project_uid == PROJECT else number + 100),
                    project_uid=project_uid,
                    project="shop",
                    kind=2,
                    model_version="publishers/acme/models/talker/versions/1",
                    instance_type="",
                    vcpus=0,
                    price_version=TOKENS_PRICE,
                    create_time=START,
                    expire_time=START + timedelta(hours=1),
                )
            )


async def test_prices_are_listed_newest_first(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """In one order, whatever order they were stored in; equal days by version."""
    later = START + timedelta(days=30)
    prices = [
        tokens_price("b@1/talker"),
        hour_price("a@1/small"),
        tokens_price("c@1/talker", effective=later),
        tokens_price("a@1/talker"),
    ]
    database = await ledger_with_prices(make_database, *prices)
    found = await pages(service(database, clock).ListPrices, billing_pb2.ListPricesRequest(page_size=3), "prices")
    assert [[price.price_version for price in page] for page in found] == [
        ["c@1/talker", "a@1/small", "a@1/talker"],
        ["b@1/talker"],
    ]


async def test_only_current_prices_are_listed_on_request(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """The newest that is in effect, one a resource; the one that is quoted."""
    database = await ledger_with_prices(make_database)
    await store_prices(
        database,
        [
            tokens_price("test@2/talker", effective=START),
            tokens_price("test@3/talker", effective=START + timedelta(seconds=1)),
        ],
    )
    request = billing_pb2.ListPricesRequest(current_only=True)
    ((*found,),) = await pages(service(database, clock).ListPrices, request, "prices")
    assert [price.price_version for price in found] == ["test@2/talker", "test@1/small"]


async def test_prices_page_on_while_lists_are_added(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """A page continues after the last price that was shown: none is shown twice."""
    database = await ledger_with_prices(make_database)
    servicer = service(database, clock)
    first = await servicer.ListPrices(billing_pb2.ListPricesRequest(page_size=1), None)
    await store_prices(database, [tokens_price("test@2/talker", effective=datetime(2026, 6, 1, tzinfo=UTC))])
    request = billing_pb2.ListPricesRequest(page_size=1, page_token=first.next_page_token)
    second = await servicer.ListPrices(request, None)
    assert [first.prices[0].price_version, second.prices[0].price_version] == ["test@1/small", "test@1/talker"]


async def test_quotes_are_listed_newest_first(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Those of the project, page by page; the last page has no token, also when it is full."""
    database = await ledger_with_prices(make_database)
    await some_quotes(database, 4)
    await some_quotes(database, 1, OTHER_PROJECT)
    call_as()
    request = billing_pb2.ListQuotesRequest(parent=PARENT, page_size=2)
    found = await pages(service(database, clock).ListQuotes, request, "quotes")
    assert [[quote.uid for quote in page] for page in found] == [
        [record_id(3), record_id(2)],
        [record_id(1), record_id(0)],
    ]


async def test_another_projects_quote_does_not_exist(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Knowing its name does not help."""
    database = await ledger_with_prices(make_database)
    await some_quotes(database, 1)
    request = billing_pb2.GetQuoteRequest(name=f"{PARENT}/quotes/{record_id(0)}")
    call_as()
    assert (await service(database, clock).GetQuote(request, None)).uid == record_id(0)
    call_as(OTHER_PROJECT)
    with pytest.raises(QuoteNotFound):
        await service(database, clock).GetQuote(request, None)


async def test_usage_is_listed_newest_first(make_database: DatabaseFactory, clock: ManualClock) -> None:
    """Of one key on request; as the ledger holds it."""
    database = await ledger_with_prices(make_database)
    await post_usage(database, clock, [usage(n, key_id=f"k{n % 2}") for n in range(1, 6)])
    call_as()
    request = billing_pb2.ListUsageRequest(parent=PARENT, page_size=2, key_id="k1")
    found = await pages(service(database, clock).ListUsage, request, "usage")
    assert [[posted.record.journal_seq for posted in page] for page in found] == [[5, 3], [1]]
    assert {posted.period for page in found for posted in page} == {"2026-01"}


LISTS = [
    ("ListPrices", billing_pb2.ListPricesRequest(), "ListPrices//False"),
    ("ListQuotes", billing_pb2.ListQuotesRequest(parent=PARENT), f"ListQuotes/{PROJECT}"),
    ("ListUsage", billing_pb2.ListUsageRequest(parent=PARENT), f"ListUsage/{PROJECT}//"),
]


@pytest.mark.parametrize(("method", "request_", "scope"), LISTS, ids=[method for method, _, _ in LISTS])
async def test_a_malformed_position_is_a_malformed_token(
    make_database: DatabaseFactory, clock: ManualClock, method: str, request_: Any, scope: str
) -> None:
    """Whoever made it up: the caller is told, nothing breaks."""
    database = await ledger_with_prices(make_database)
    call_as()
    request = type(request_)()
    request.CopyFrom(request_)
    for position in ([], [1, 2, 3], [-1], [1 << 70], ["a\0b"], ["a", "b"], [-1, "a"]):
        request.page_token = page_token_encode(scope, position)
        with pytest.raises(PageTokenInvalid):
            await getattr(service(database, clock), method)(request, None)


@contextlib.asynccontextmanager
async def relaying(database: Database, nats: Broker, clock: Clock) -> AsyncIterator[Bus]:
    """Billing's relay at work inside the block."""
    bus = await nats.bus_as("billing")
    task = asyncio.create_task(OutboxRelay(database, bus, clock).run())
    try:
        yield bus
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def watched(servicer: BillingServicer, token: str, record_count: int) -> tuple[list[int], str]:
    """Journal sequences of the next records, and the token after them."""
    request = billing_pb2.WatchUsageRequest(parent=PARENT, resume_token=token)
    seen: list[int] = []
    async with asyncio.timeout(20), contextlib.aclosing(servicer.WatchUsage(request, None)) as stream:
        async for response in stream:
            seen += [posted.record.journal_seq for posted in response.usage]
            token = response.resume_token
            if len(seen) >= record_count:
                break
    return seen, token


async def test_a_watch_goes_on_where_it_ended(make_database: DatabaseFactory, nats: Broker, clock: ManualClock) -> None:
    """What was posted meanwhile is not missed, and nothing comes twice; another project's usage never comes."""
    database = await ledger_with_prices(make_database)
    call_as()
    async with relaying(database, nats, clock) as bus:
        servicer = service(database, clock, bus)
        _, token = await watched(servicer, "", 0)
        seen = []
        for number in (1, 3, 5):
            await post_usage(database, clock, [usage(number), usage(number + 100, project_uid=OTHER_PROJECT)])
            await post_usage(database, clock, [usage(number + 1)])
            some, token = await watched(servicer, token, 2)
            seen += some
    assert seen == [1, 2, 3, 4, 5, 6]


async def test_a_watch_without_a_token_begins_now(
    make_database: DatabaseFactory, nats: Broker, clock: ManualClock
) -> None:
    """What was posted before is for ListUsage."""
    database = await ledger_with_prices(make_database)
    call_as()
    async with relaying(database, nats, clock) as bus:
        servicer = service(database, clock, bus)
        start = await bus.last_sequence("BILLING")
        await post_usage(database, clock, [usage(1)])
        await watched(servicer, page_token_encode(f"WatchUsage/{PROJECT}", [start]), 1)
        _, token = await watched(servicer, "", 0)
        await post_usage(database, clock, [usage(2)])
        assert (await watched(servicer, token, 1))[0] == [2]


async def test_a_resume_token_is_for_one_project(
    make_database: DatabaseFactory, nats: Broker, clock: ManualClock
) -> None:
    """Another project's token is refused."""
    database = await ledger_with_prices(make_database)
    servicer = service(database, clock, await nats.bus_as("billing"))
    call_as()
    _, token = await watched(servicer, "", 0)
    call_as(OTHER_PROJECT)
    with pytest.raises(PageTokenInvalid):
        await watched(servicer, token, 0)


async def test_a_malformed_resume_token_is_refused(
    make_database: DatabaseFactory, nats: Broker, clock: ManualClock
) -> None:
    """Also one beyond the stream's end, as it is after the broker lost its disk: it would wait and miss everything."""
    database = await ledger_with_prices(make_database)
    servicer = service(database, clock, await nats.bus_as("billing"))
    call_as()
    for position in ([], ["x"], [-1], [1, 2], [1 << 62]):
        with pytest.raises(PageTokenInvalid):
            await watched(servicer, page_token_encode(f"WatchUsage/{PROJECT}", position), 0)


async def test_a_resume_token_whose_events_are_gone_is_refused(
    make_database: DatabaseFactory, nats: Broker, clock: ManualClock
) -> None:
    """Rather than silently going on after a gap: the caller reads ListUsage and begins again."""
    database = await ledger_with_prices(make_database)
    call_as()
    async with relaying(database, nats, clock) as bus:
        servicer = service(database, clock, bus)
        _, token = await watched(servicer, "", 0)
        await post_usage(database, clock, [usage(1)])
        await watched(servicer, token, 1)
        tester = await nats.tester()
        await tester.jetstream.purge_stream("BILLING")
        with pytest.raises(PageTokenInvalid, match="ListUsage"):
            await watched(servicer, token, 1)


@pytest.mark.parametrize("stored", ["usage", "quote", "event"])
async def test_a_clock_behind_what_is_stored_refuses_to_start(
    make_database: DatabaseFactory, clock: ManualClock, stored: str
) -> None:
    """Whatever the newest stored instant is; the message names both."""
    database = await ledger_with_prices(make_database)
    if stored == "usage":
        await post_usage(database, clock, [usage()])
    elif stored == "quote":
        await some_quotes(database, 1)
    else:
        async with database.unit_of_work() as uow:
            row = {"consumer": "billing-instances", "event_id": record_id(1), "effect_time": START}
            await uow.session.execute(insert(CHASSIS.inbox).values(row))
    async with database.reader() as session:
        newest = await reads.newest_instant(session, CHASSIS)
    check_not_behind(ManualClock(START - timedelta(seconds=60)), newest, 60)
    with pytest.raises(ClockBehind, match="2026-01-15T12:00:00"):
        check_not_behind(ManualClock(START - timedelta(seconds=61)), newest, 60)


async def test_an_empty_ledger_takes_any_clock(make_database: DatabaseFactory) -> None:
    """There is nothing to be behind of."""
    database = await ledger_with_prices(make_database)
    async with database.reader() as session:
        newest = await reads.newest_instant(session, CHASSIS)
    check_not_behind(ManualClock(datetime(1980, 1, 1, tzinfo=UTC)), newest, 60)
