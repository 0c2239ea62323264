"""BillingService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from modelyard.billing.v1 import billing_pb2, billing_pb2_grpc, events_pb2

from chassis.access import current_caller
from chassis.bus import NATS_ERRORS, Bus, BusUnavailable
from chassis.clock import Clock, us_from_time
from chassis.database import Database
from chassis.errors import PageTokenInvalid
from chassis.events import decode_event
from chassis.paging import page_size, page_token_decode, page_token_encode, split_page
from services.billing.domain.bill import arithmetic
from services.billing.domain.errors import QuoteNotFound
from services.billing.domain.prices import current_prices, newest_first
from services.billing.rpc.catalog_client import CatalogClient
from services.billing.rpc.convert import (
    QUOTE,
    bill_to_proto,
    event_to_proto,
    line_to_proto,
    price_to_proto,
    quantities_to_proto,
    quote_to_proto,
    usage_row_to_proto,
)
from services.billing.storage import reads
from services.billing.usecases import read_bill
from services.billing.usecases.create_quote import create_quote

Context = Any
# Later than any price takes effect, microseconds.
LATEST_US = 2**63 - 1


class BillingServicer(billing_pb2_grpc.BillingServiceServicer):
    """Each method: who is asked for what, then one use case. The project is the one the interceptor resolved."""

    def __init__(
        self, database: Database, bus: Bus, clock: Clock, catalog: CatalogClient, *, quote_valid_s: float
    ) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self._catalog = catalog
        self._quote_valid_s = quote_valid_s

    async def ListPrices(
        self, request: billing_pb2.ListPricesRequest, context: Context
    ) -> billing_pb2.ListPricesResponse:
        scope = f"ListPrices/{request.resource}/{request.current_only}/{request.kind}"
        effective_us, version = page_token_decode(request.page_token, scope, (LATEST_US, ""))
        async with self._database.reader() as session:
            prices = await reads.prices(session, request.resource)
        if request.current_only:
            prices = current_prices(prices, self._clock.now())
        if request.kind:
            prices = [price for price in prices if int(price.kind) == request.kind]
        listed = [price for price in sorted(prices, key=newest_first) if newest_first(price) > (-effective_us, version)]
        page, more = split_page(listed, page_size(request.page_size))
        last: list[str | int] = [us_from_time(page[-1].effective_time), page[-1].price_version] if more else []
        return billing_pb2.ListPricesResponse(
            prices=[price_to_proto(price) for price in page],
            next_page_token=page_token_encode(scope, last) if more else "",
        )

    async def CreateQuote(self, request: billing_pb2.CreateQuoteRequest, context: Context) -> billing_pb2.Quote:
        caller = current_caller()
        return await create_quote(
            self._database,
            self._clock,
            request,
            principal=caller.principal,
            project_uid=caller.project_uid,
            project=caller.project,
            ask_catalog=lambda: self._catalog.offered(caller.project, request.model_version, request.instance_type),
            to_proto=quote_to_proto,
            valid_s=self._quote_valid_s,
        )

    async def GetQuote(self, request: billing_pb2.GetQuoteRequest, context: Context) -> billing_pb2.Quote:
        uid = QUOTE.parse(request.name)["quote"]
        async with self._database.reader() as session:
            row = await reads.quote(session, current_caller().project_uid, uid)
            if row is None:
                raise QuoteNotFound(
                    f"quote {request.name!r} does not exist in this project; `modelyard quote` makes one"
                )
            prices = await reads.prices_by_version(session, [row.price_version])
        return quote_to_proto(row, prices[row.price_version])

    async def ListQuotes(
        self, request: billing_pb2.ListQuotesRequest, context: Context
    ) -> billing_pb2.ListQuotesResponse:
        caller = current_caller()
        scope = f"ListQuotes/{caller.project_uid}"
        (before,) = page_token_decode(request.page_token, scope, ("",))
        limit = page_size(request.page_size)
        async with self._database.reader() as session:
            found = await reads.quotes(session, caller.project_uid, before, limit + 1)
            rows, more = split_page(found, limit)
            prices = await reads.prices_by_version(session, sorted({row.price_version for row in rows}))
        return billing_pb2.ListQuotesResponse(
            quotes=[quote_to_proto(row, prices[row.price_version]) for row in rows],
            next_page_token=page_token_encode(scope, [rows[-1].uid]) if more else "",
        )

    async def GetBill(self, request: billing_pb2.GetBillRequest, context: Context) -> billing_pb2.Bill:
        caller = current_caller()
        bill = await read_bill.get_bill(self._database, self._clock, caller.project_uid, request.period)
        return bill_to_proto(bill, caller.project)

    async def ListUsage(self, request: billing_pb2.ListUsageRequest, context: Context) -> billing_pb2.ListUsageResponse:
        caller = current_caller()
        scope = f"ListUsage/{caller.project_uid}/{request.key_id}/{request.deployment_uid}"
        (before,) = page_token_decode(request.page_token, scope, ("",))
        limit = page_size(request.page_size)
        async with self._database.reader() as session:
            found = await reads.usage_page(
                session,
                caller.project_uid,
                before_id=before,
                limit=limit + 1,
                key_id=request.key_id,
                deployment_uid=request.deployment_uid,
            )
        rows, more = split_page(found, limit)
        return billing_pb2.ListUsageResponse(
            usage=[usage_row_to_proto(row) for row in rows],
            next_page_token=page_token_encode(scope, [rows[-1].id]) if more else "",
        )

    async def ExplainLine(
        self, request: billing_pb2.ExplainLineRequest, context: Context
    ) -> billing_pb2.ExplainLineResponse:
        explained = await read_bill.explain_line(
            self._database,
            self._clock,
            current_caller().project_uid,
            request.period,
            request.line,
            request.page_size,
            request.page_token,
        )
        return billing_pb2.ExplainLineResponse(
            line=line_to_proto(explained.bill, explained.line),
            events=[event_to_proto(event) for event in explained.events],
            next_page_token=explained.next_page_token,
            arithmetic=arithmetic(explained.line),
        )

    async def Reconcile(self, request: billing_pb2.ReconcileRequest, context: Context) -> billing_pb2.ReconcileResponse:
        found = await read_bill.reconcile(self._database, self._clock, current_caller().project_uid, request.period)
        return billing_pb2.ReconcileResponse(
            record_count=found.record_count,
            records=quantities_to_proto(found.records),
            rollups=quantities_to_proto(found.rollups),
            differences=[billing_pb2.Difference(kind=kind, detail=detail) for kind, detail in found.differences],
        )

    async def WatchUsage(
        self, request: billing_pb2.WatchUsageRequest, context: Context
    ) -> AsyncIterator[billing_pb2.WatchUsageResponse]:
        """Positions are JetStream sequences; a token is bound to its project.

        Raises:
            PageTokenInvalid: also one whose next events the stream does not hold: going on would miss them.
        """
        project_uid = current_caller().project_uid
        scope = f"WatchUsage/{project_uid}"
        first, last = await self._retained()
        (seen,) = page_token_decode(request.resume_token, scope, (last,))
        if not first - 1 <= seen <= last:
            raise PageTokenInvalid(
                "what follows resume_token is not in the stream any more; read it with ListUsage and watch anew without one",
                field="resume_token",
            )
        yield billing_pb2.WatchUsageResponse(resume_token=page_token_encode(scope, [seen]))
        subject = f"modelyard.billing.v1.usage.posted.{project_uid}"
        async for sequence, event in self._bus.subscribe_stream("BILLING", subject, seen + 1):
            posted = decode_event(event, events_pb2.UsagePosted)
            yield billing_pb2.WatchUsageResponse(usage=posted.usage, resume_token=page_token_encode(scope, [sequence]))

    async def _retained(self) -> tuple[int, int]:
        """The first and the last sequence that the stream holds; an empty one begins after its last."""
        try:
            state = (await self._bus.jetstream.stream_info("BILLING")).state
        except NATS_ERRORS as error:
            raise BusUnavailable(f"NATS did not describe BILLING: {error}") from error
        return state.first_seq, state.last_seq
