"""Facts billing publishes, and the proto form of a posted record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from modelyard.billing.v1 import billing_pb2, events_pb2
from modelyard.type.v1 import access_pb2, money_pb2, usage_pb2

from chassis.events import Event, Projection, published_event
from chassis.timestamps import timestamp
from services.billing.domain.usage import UsageFact, is_uid

RECORDS_PER_EVENT_MAX = 500
EVENT_BYTES_MAX = 512 * 1024
RECORD_ID_LENGTH_MAX = 64


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
        traceparent=fact.traceparent,
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


def usage_posted(project_uid: str, posted: Sequence[billing_pb2.PostedUsage], now: datetime) -> Iterator[Event]:
    """Usage of one project is in the ledger: as many events as it takes, in the order of the records."""
    chunk: list[billing_pb2.PostedUsage] = []
    chunk_bytes = 0
    for usage in posted:
        size = usage.ByteSize()
        if chunk and (len(chunk) == RECORDS_PER_EVENT_MAX or chunk_bytes + size > EVENT_BYTES_MAX):
            yield _usage_posted(project_uid, chunk, now)
            chunk, chunk_bytes = [], 0
        chunk.append(usage)
        chunk_bytes += size
    if chunk:
        yield _usage_posted(project_uid, chunk, now)


def _usage_posted(project_uid: str, posted: Sequence[billing_pb2.PostedUsage], now: datetime) -> Event:
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
    """A record was quarantined: it came again with other content, or cannot be true (`billed_digest` is empty)."""
    return published_event(
        "billing",
        "usage",
        "conflicted",
        events_pb2.UsageConflicted(
            record_id=fact.id[:RECORD_ID_LENGTH_MAX],
            billed_digest=billed_digest,
            quarantined_digest=quarantined_digest,
        ),
        # A record may be here because these are no ids; a subject and a header take nothing else.
        project_uid=fact.project_uid if is_uid(fact.project_uid) else None,
        aggregate_uid=fact.id if is_uid(fact.id) else quarantined_digest,
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
