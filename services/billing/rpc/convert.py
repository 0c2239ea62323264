"""Rows and values to protos."""

from __future__ import annotations

from modelyard.billing.v1 import billing_pb2
from modelyard.type.v1 import money_pb2, usage_pb2

from chassis.money import Rate, decimal_string
from chassis.names import ResourcePattern
from chassis.timestamps import timestamp
from services.billing.domain.bill import Line
from services.billing.domain.meters import Meter
from services.billing.domain.prices import Price
from services.billing.events.published import posted_to_proto
from services.billing.storage.reads import fact_from_row
from services.billing.storage.tables import QuoteRow, UsageRow
from services.billing.usecases.read_bill import Bill, LineEvent

QUOTE = ResourcePattern("projects/{project}/quotes/{quote}")


def rate_to_proto(meter: Meter, rate: Rate) -> money_pb2.Rate:
    """An exact rate."""
    return money_pb2.Rate(
        meter=money_pb2.Meter.ValueType(meter),
        currency=rate.currency,
        amount=decimal_string(rate.amount),
        per=rate.per,
    )


def rates_to_proto(price: Price) -> list[money_pb2.Rate]:
    """All rates of a price, ordered by meter."""
    return [rate_to_proto(meter, price.rate(meter)) for meter in sorted(price.amounts)]


def price_to_proto(price: Price) -> billing_pb2.Price:
    """One price of a list."""
    return billing_pb2.Price(
        price_version=price.price_version,
        resource=price.resource,
        kind=billing_pb2.OfferKind.ValueType(price.kind),
        rates=rates_to_proto(price),
        effective_time=timestamp(price.effective_time),
        source=price.source,
    )


def quote_to_proto(row: QuoteRow, price: Price) -> billing_pb2.Quote:
    """A quote with its rates."""
    return billing_pb2.Quote(
        name=QUOTE.format(project=row.project, quote=row.uid),
        uid=row.uid,
        kind=billing_pb2.OfferKind.ValueType(row.kind),
        model_version=row.model_version,
        instance_type=row.instance_type,
        vcpus=row.vcpus,
        rates=rates_to_proto(price),
        price_version=row.price_version,
        create_time=timestamp(row.create_time),
        expire_time=timestamp(row.expire_time),
        project_uid=row.project_uid,
        supported_by=row.supported_by,
        support_contact=row.support_contact,
        sla=row.sla,
    )


def line_to_proto(bill: Bill, line: Line) -> billing_pb2.BillLine:
    """One line of a bill."""
    key = line.key
    return billing_pb2.BillLine(
        id=key.line_id,
        deployment=bill.deployments.get(key.deployment_uid, ""),
        deployment_uid=key.deployment_uid,
        model_version=key.model_version,
        instance_type=bill.instance_types.get(key.price_version, ""),
        key_id=key.key_id,
        rate=rate_to_proto(key.meter, line.rate),
        quantity=line.sum.quantity,
        amount=decimal_string(line.amount),
        amount_exact=f"{line.exact.numerator}/{line.exact.denominator}",
        price_version=key.price_version,
        record_count=line.sum.record_count,
        open_quantity=line.sum.open,
    )


def bill_to_proto(bill: Bill, project: str) -> billing_pb2.Bill:
    """A whole bill."""
    return billing_pb2.Bill(
        project=f"projects/{project}",
        period=bill.period,
        lines=[line_to_proto(bill, line) for line in bill.lines],
        total=decimal_string(bill.total),
        currency=bill.currency,
        as_of_time=timestamp(bill.as_of),
        unrated=quantities_to_proto(bill.unrated),
    )


def quantities_to_proto(by_meter: dict[Meter, int]) -> list[money_pb2.Quantity]:
    """Amounts by meter, ordered by meter."""
    return [
        money_pb2.Quantity(meter=money_pb2.Meter.ValueType(meter), value=value)
        for meter, value in sorted(by_meter.items())
    ]


def usage_row_to_proto(row: UsageRow) -> billing_pb2.PostedUsage:
    """A record as the ledger holds it."""
    return posted_to_proto(
        fact_from_row(row), record_time=row.record_time, period=row.period, correction=row.correction
    )


def event_to_proto(event: LineEvent) -> billing_pb2.LineEvent:
    """One raw event behind a line."""
    return billing_pb2.LineEvent(
        record_id=event.record_id,
        occur_time=timestamp(event.occur_time),
        quantity=event.quantity,
        outcome=usage_pb2.Outcome.ValueType(event.outcome),
        request_id=event.request_id,
        instance_uid=event.instance_uid,
        end_time=None if event.end_time is None else timestamp(event.end_time),
        open=event.open,
    )
