"""What makes a usage record valid, and what tells a duplicate from a conflict."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.type.v1 import money_pb2, usage_pb2

from services.billing.domain.errors import RecordInvalid
from services.billing.domain.meters import Meter
from services.billing.domain.usage import NO_TIME, QUANTITY_MAX, UsageFact, check_usage, contiguous, digest
from services.billing.events.consumed import usage_from_proto
from services.billing.events.published import usage_to_proto
from tests.integration.billing.build import usage

OTHER: dict[str, Any] = {
    "journal_seq": 2,
    "outcome": 2,
    "occur_time": usage().occur_time + timedelta(microseconds=1),
    "quantities": ((Meter.INPUT_TOKENS, 11), (Meter.OUTPUT_TOKENS, 3)),
}


def test_a_sound_record_is_taken() -> None:
    """What inference sends passes."""
    check_usage(usage())


def test_a_call_that_costs_nothing_is_sound() -> None:
    """Zero counts, no price, no quote, no key: a failed managed call."""
    check_usage(usage(quantities=((Meter.REQUESTS, 0),), price_version="", quote="", key_id="", request_id=""))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "not-a-uuid"),
        ("id", "2c9af073-f1fb-512d-a4d1-c38eb343bfaa"),
        ("id", usage().id.upper()),
        ("journal_id", ""),
        ("journal_id", "a.b >"),
        ("project_uid", "shop"),
        ("endpoint_uid", ""),
        ("deployment_uid", "blue"),
        ("journal_seq", 0),
        ("journal_seq", 1 << 63),
        ("outcome", 0),
        ("outcome", -1),
        ("occur_time", NO_TIME),
        ("occur_time", datetime(1999, 12, 31, tzinfo=UTC)),
        ("quantities", ((Meter.INPUT_TOKENS, -1),)),
        ("quantities", ((Meter.INPUT_TOKENS, QUANTITY_MAX + 1),)),
        ("quantities", ((Meter.INPUT_TOKENS, 1), (Meter.INPUT_TOKENS, 2))),
        ("quantities", ((Meter.CORE_MILLISECONDS, 1),)),
        ("quantities", ((77, 1),)),
        ("model_version", "a\0b"),
        ("model_version", "m" * 513),
        ("key_id", "k" * 129),
        ("price_version", "p\n"),
        ("price_version", "p" * 257),
        ("quote", "q" * 513),
        ("request_id", "r" * 129),
    ],
)
def test_what_cannot_be_true_is_refused_by_field(field: str, value: object) -> None:
    """Nothing of it could reach a bill, a database or a subject."""
    with pytest.raises(RecordInvalid) as refused:
        check_usage(usage(**{field: value}))
    assert refused.value.field == field


@pytest.mark.parametrize("field", [field.name for field in fields(UsageFact) if field.name != "traceparent"])
def test_every_field_makes_another_digest(field: str) -> None:
    """So that no change of content passes for a duplicate."""
    fact = usage()
    assert digest(replace(fact, **{field: OTHER.get(field, "other")})) != digest(fact)


def test_a_trace_is_no_part_of_what_is_billed() -> None:
    """The same call, traced or not, is the same record."""
    assert digest(replace(usage(), traceparent=f"00-{'a' * 32}-{'b' * 16}-01")) == digest(usage())


def test_the_order_of_quantities_makes_no_other_digest() -> None:
    """Senders may list meters in any order."""
    record = usage_to_proto(usage())
    turned = usage_pb2.UsageRecord()
    turned.CopyFrom(record)
    del turned.quantities[:]
    turned.quantities.extend(reversed(record.quantities))
    assert digest(usage_from_proto(turned)) == digest(usage_from_proto(record))


@pytest.mark.parametrize("stamp", [None, Timestamp(seconds=1 << 60), Timestamp(seconds=1, nanos=-5)])
def test_a_record_without_a_time_can_be_read_and_is_refused(stamp: Timestamp | None) -> None:
    """Reading never fails: the record has to reach quarantine."""
    record = usage_to_proto(usage())
    record.ClearField("occur_time")
    if stamp is not None:
        record.occur_time.CopyFrom(stamp)
    with pytest.raises(RecordInvalid) as refused:
        check_usage(usage_from_proto(record))
    assert refused.value.field == "occur_time"


def test_an_unknown_meter_can_be_read() -> None:
    """A newer sender's meter reaches quarantine, not an exception."""
    record = usage_to_proto(usage())
    record.quantities.append(money_pb2.Quantity(meter=money_pb2.Meter.ValueType(99), value=1))
    with pytest.raises(RecordInvalid, match="99"):
        check_usage(usage_from_proto(record))


@pytest.mark.parametrize(
    ("committed", "present", "expected"),
    [
        (0, [], 0),
        (0, [1, 2, 3], 3),
        (0, [2, 3], 0),
        (0, [1, 3], 1),
        (4, [5, 5, 6], 6),
        (4, [6], 4),
        (9, [3, 4], 9),
    ],
)
def test_a_watermark_stops_at_the_first_gap(committed: int, present: list[int], expected: int) -> None:
    """And never goes back."""
    assert contiguous(committed, present) == expected
