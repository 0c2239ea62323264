"""Golden bytes of what outlives a release: events, bucket values and journal frames.

    python -m tests.contract.golden

adds a sample of every message and field that has none to golden_events.json. It never touches what stands there: those
bytes lie in streams, buckets and journals of running platforms.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from modelyard.billing.v1 import events_pb2 as billing_events
from modelyard.catalog.v1 import events_pb2 as catalog_events
from modelyard.deploy.v1 import events_pb2 as deploy_events
from modelyard.deploy.v1 import routes_pb2
from modelyard.inference.v1 import journal_pb2
from modelyard.type.v1 import access_pb2, usage_pb2

GOLDEN = Path(__file__).parent / "golden_events.json"
TIME = "2026-01-15T12:00:00.123456Z"

EVENTS = [
    message
    for file in (catalog_events, deploy_events, billing_events)
    for message in file.DESCRIPTOR.message_types_by_name.values()
]
KEPT: dict[str, Descriptor] = {
    message.full_name: message
    for message in (
        *EVENTS,
        usage_pb2.UsageBatch.DESCRIPTOR,
        access_pb2.ProjectAccess.DESCRIPTOR,
        access_pb2.JournalWatermark.DESCRIPTOR,
        routes_pb2.Route.DESCRIPTOR,
        routes_pb2.KeyAccess.DESCRIPTOR,
        journal_pb2.JournalFrame.DESCRIPTOR,
    )
}


def read_golden() -> dict[str, list[dict[str, Any]]]:
    """Samples by message: each has its bytes in hex and what they say as protobuf JSON."""
    golden: dict[str, list[dict[str, Any]]] = json.loads(GOLDEN.read_text())
    return golden


def as_json(message: Message) -> dict[str, Any]:
    """What a message says, by the names of its fields."""
    said: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return said


def fields_below(descriptor: Descriptor) -> set[str]:
    """Full names of every field that a message of this type can hold, nested ones included."""
    found: set[str] = set()
    for field in descriptor.fields:
        if field.full_name not in found:
            found.add(field.full_name)
            if field.message_type is not None:
                found |= fields_below(field.message_type)
    return found


def fields_set(message: Message) -> set[str]:
    """Full names of every field that is set, nested ones included."""
    found: set[str] = set()
    for field, value in message.ListFields():
        found.add(field.full_name)
        for nested in _nested(field, value):
            found |= fields_set(nested)
    return found


def _nested(field: FieldDescriptor, value: Any) -> Iterator[Message]:
    if field.message_type is None:
        return
    if field.message_type.GetOptions().map_entry:
        entry = GetMessageClass(field.message_type)
        yield from (entry(key=key, value=item) for key, item in value.items())
    elif field.is_repeated:
        yield from value
    else:
        yield value


def samples(descriptor: Descriptor) -> Iterator[Message]:
    """Messages that together set every field; one for each choice of a oneof."""
    choices = [field.name for oneof in descriptor.oneofs for field in oneof.fields] or [""]
    for choice in choices:
        message = GetMessageClass(descriptor)()
        _fill(message, choice)
        yield message


def _fill(message: Message, choice: str = "") -> None:
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof is not None and field.name != choice:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)["key"] = _scalar(field.message_type.fields_by_name["value"])
        elif field.message_type is not None:
            held = getattr(message, field.name)
            nested = held.add() if field.is_repeated else held
            if field.message_type.full_name == "google.protobuf.Timestamp":
                nested.FromJsonString(TIME)
            else:
                _fill(nested)
        elif field.is_repeated:
            getattr(message, field.name).append(_scalar(field))
        else:
            setattr(message, field.name, _scalar(field))


def _scalar(field: FieldDescriptor) -> Any:
    if field.enum_type is not None:
        return field.enum_type.values[1].number
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return b"\x00\xff" if field.type == FieldDescriptor.TYPE_BYTES else f"a {field.name}"
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return True
    return 1000 + field.number


def main() -> None:
    """Add what is missing."""
    golden = read_golden() if GOLDEN.exists() else {}
    for name, descriptor in sorted(KEPT.items()):
        kept = golden.setdefault(name, [])
        known: set[str] = set()
        for sample in kept:
            known |= fields_set(GetMessageClass(descriptor).FromString(bytes.fromhex(sample["bytes"])))
        if fields_below(descriptor) <= known:
            continue
        for message in samples(descriptor):
            kept.append({"bytes": message.SerializeToString(deterministic=True).hex(), "says": as_json(message)})
    GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
