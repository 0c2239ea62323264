"""What an earlier release wrote into streams, buckets and journals stays readable."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass
from modelyard.deploy.v1 import events_pb2

from chassis.events import decode_event, decode_projection, event_from_parts
from tests.contract.golden import KEPT, as_json, fields_below, fields_set, read_golden

SAMPLES = [(name, sample) for name, kept in read_golden().items() for sample in kept]

every_sample = pytest.mark.parametrize(("name", "sample"), SAMPLES, ids=[name for name, _ in SAMPLES])


@every_sample
def test_old_bytes_say_what_they_said(name: str, sample: dict[str, Any]) -> None:
    """A field keeps its number, type, name and meaning for as long as messages of its release are about."""
    message = GetMessageClass(KEPT[name]).FromString(bytes.fromhex(sample["bytes"]))
    assert as_json(message) == sample["says"]


@every_sample
def test_equal_messages_have_equal_bytes(name: str, sample: dict[str, Any]) -> None:
    """What is read and written again is the same to the byte: digests of records compare."""
    message = GetMessageClass(KEPT[name]).FromString(bytes.fromhex(sample["bytes"]))
    assert message.SerializeToString(deterministic=True).hex() == sample["bytes"]


@pytest.mark.parametrize("name", sorted(KEPT))
def test_every_field_is_kept(name: str) -> None:
    """A new message or field is kept from its first release on: `python -m tests.contract.golden` adds it."""
    message_type = GetMessageClass(KEPT[name])
    known: set[str] = set()
    for sample in read_golden().get(name, []):
        known |= fields_set(message_type.FromString(bytes.fromhex(sample["bytes"])))
    assert fields_below(KEPT[name]) - known == set()


def test_an_old_event_is_read_from_its_headers() -> None:
    """The envelope: subject and headers as the first release wrote them."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "019bc1c0-0000-7000-8000-000000000001",
        "ce-type": "modelyard.deploy.v1.InstanceReleased",
        "ce-source": "modelyard.deploy",
        "ce-subject": "019bc1c0-0000-7000-8000-000000000002",
        "ce-time": "2026-01-15T12:00:00.123456Z",
        "ce-sequence": "7",
        "ce-datacontenttype": "application/protobuf",
        "Nats-Msg-Id": "019bc1c0-0000-7000-8000-000000000001",
    }
    event = event_from_parts("modelyard.deploy.v1.instance.released.p1", headers, bytes.fromhex("0a026931"))
    assert (event.owner, event.resource, event.action, event.project_uid) == ("deploy", "instance", "released", "p1")
    assert (event.aggregate_uid, event.sequence) == (headers["ce-subject"], 7)
    assert event.time == datetime(2026, 1, 15, 12, 0, 0, 123456, tzinfo=UTC)
    assert event.headers() == headers
    assert decode_event(event, events_pb2.InstanceReleased).instance_uid == "i1"


def test_an_old_bucket_value_is_read_from_its_frame() -> None:
    """Eight bytes of sequence, big-endian, then the message; nothing after them means that it is gone."""
    assert decode_projection(bytes.fromhex("0000000000000102" + "0a026b31")) == (258, b"\x0a\x02k1")
    assert decode_projection(bytes.fromhex("0000000000000103")) == (259, b"")
