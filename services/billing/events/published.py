"""Facts billing publishes, and the proto form of a posted record."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.billing.v1 import billing_pb2, events_pb2
from modelyard.type.v1 import access_pb2, money_pb2, usage_pb2

from chassis.events import Event, Projection, published_event
from services.billing.domain.usage import UsageFact

RECORDS_PER_EVENT_MAX = 500


def timestamp(moment: datetime) -> Timestamp:
    """A proto timestamp of an aware moment."""
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def usage_to_proto(fact: UsageFact) -> usage_pb2.UsageRecord:
    """A record as it travels."""
    return usage_pb2.UsageRecord(
        id=fact.id,
        journal_id=fact.journal_id,
        journal_seq=fact.journal_seq,
        project_uid=fact.project_uid,
        endpoint_uid=fact.endpoint_uid,
        deployment_uid=fact.deployment_uid,
        model_version=fact.model_version,
        key_id=fact.key_id,
        price_version=fact.price_version,
        quote=fact.quote,
        outcome=usage_pb2.Outcome.ValueType(fact.outcome),
        occur_time=timestamp(fact.occur_time),
        request_id=fact.request_id,
        quantities=[
            money_pb2.Quantity(meter=money_pb2.Meter.ValueType(meter), value=value) for meter, value in fact.quantities
        ],
    )


def posted_to_proto(
    fact: UsageFact, *, record_time: datetime, period: str, correction: bool
) -> billing_pb2.PostedUsage:
    """A record as the ledger holds it."""
    return billing_pb2.PostedUsage(
        record=usage_to_proto(fact), record_time=timestamp(record_time), period=period, correction=correction
    )


def usage_posted(project_uid: str, posted: Sequence[billing_pb2.PostedUsage], now: datetime) -> Event:
    """Usage is in the ledger; at most RECORDS_PER_EVENT_MAX records of one project."""
    return published_event(
        "billing",
        "usage",
        "posted",
        events_pb2.UsagePosted(usage=posted),
        project_uid=project_uid,
        aggregate_uid=project_uid,
        sequence=0,
        time=now,
    )


def usage_conflicted(fact: UsageFact, *, billed_digest: str, quarantined_digest: str, now: datetime) -> Event:
    """A record came again with other content."""
    return published_event(
        "billing",
        "usage",
        "conflicted",
        events_pb2.UsageConflicted(
            record_id=fact.id, billed_digest=billed_digest, quarantined_digest=quarantined_digest
        ),
        project_uid=fact.project_uid,
        aggregate_uid=fact.id,
        sequence=0,
        time=now,
    )


def quote_created(project_uid: str, quote: str, quote_uid: str, price_version: str, now: datetime) -> Event:
    """A price was offered."""
    return published_event(
        "billing",
        "quote",
        "created",
        events_pb2.QuoteCreated(quote=quote, price_version=price_version),
        project_uid=project_uid,
        aggregate_uid=quote_uid,
        sequence=1,
        time=now,
    )


def watermark(journal_id: str, committed_seq: int) -> Projection:
    """How far a journal may forget; its own sequence is what orders it."""
    value = access_pb2.JournalWatermark(journal_id=journal_id, committed_seq=committed_seq)
    return Projection("watermarks", journal_id, value.SerializeToString(deterministic=True), committed_seq)
