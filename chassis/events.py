"""Event envelopes (CloudEvents 1.0, binary mode) and framed key-value projections."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from chassis.errors import Code, Problem
from chassis.ids import new_uid

M = TypeVar("M", bound=Message)

_SEQUENCE = struct.Struct(">Q")


class EventMalformed(Problem):
    """A message without the headers of an event, or whose body does not decode."""

    code = Code.INVALID_ARGUMENT
    reason = "EVENT_MALFORMED"


@dataclass(frozen=True, slots=True)
class Event:
    """One thin fact. `id` is also the outbox row, the `Nats-Msg-Id` and the consumer's inbox row.

    `sequence` counts the events of one aggregate from 1; `type` is the full name of the protobuf message in `data`.
    """

    owner: str
    resource: str
    action: str
    project_uid: str | None
    type: str
    data: bytes
    aggregate_uid: str
    sequence: int
    time: datetime
    id: str

    @property
    def subject(self) -> str:
        return f"modelyard.{self.owner}.v1.{self.resource}.{self.action}.{self.project_uid or '_'}"

    def headers(self) -> dict[str, str]:
        return {
            "Nats-Msg-Id": self.id,
            "ce-specversion": "1.0",
            "ce-id": self.id,
            "ce-type": self.type,
            "ce-source": f"modelyard.{self.owner}",
            "ce-subject": self.aggregate_uid,
            "ce-time": self.time.isoformat(),
            "ce-sequence": str(self.sequence),
            "content-type": "application/protobuf",
        }


def published_event(
    owner: str,
    resource: str,
    action: str,
    message: Message,
    *,
    project_uid: str | None,
    aggregate_uid: str,
    sequence: int,
    time: datetime,
) -> Event:
    """Wrap a protobuf fact; serialization is deterministic so that equal facts have equal bytes."""
    return Event(
        owner=owner,
        resource=resource,
        action=action,
        project_uid=project_uid,
        type=message.DESCRIPTOR.full_name,
        data=message.SerializeToString(deterministic=True),
        aggregate_uid=aggregate_uid,
        sequence=sequence,
        time=time,
        id=new_uid(),
    )


def event_from_message(subject: str, headers: Mapping[str, str] | None, data: bytes) -> Event:
    """Read an event as it came from a stream.

    Raises:
        EventMalformed: naming the missing or unreadable header.
    """
    parts = subject.split(".")
    if len(parts) != 6 or parts[0] != "modelyard" or parts[2] != "v1":
        raise EventMalformed(
            f"subject {subject!r} is not of the form modelyard.<owner>.v1.<resource>.<action>.<project>"
        )
    given = headers or {}
    try:
        return Event(
            owner=parts[1],
            resource=parts[3],
            action=parts[4],
            project_uid=None if parts[5] == "_" else parts[5],
            type=given["ce-type"],
            data=data,
            aggregate_uid=given["ce-subject"],
            sequence=int(given["ce-sequence"]),
            time=datetime.fromisoformat(given["ce-time"]),
            id=given["ce-id"],
        )
    except KeyError as missing:
        raise EventMalformed(f"event on {subject} has no header {missing.args[0]!r}") from None
    except ValueError as unreadable:
        raise EventMalformed(f"event on {subject} has an unreadable header: {unreadable}") from None


def decode_event(event: Event, message_type: type[M]) -> M:
    """The event's body as its protobuf message.

    Raises:
        EventMalformed: it is of another type, or does not decode.
    """
    expected = message_type.DESCRIPTOR.full_name
    if event.type != expected:
        raise EventMalformed(f"event {event.id} is a {event.type}; {expected} was expected")
    try:
        return message_type.FromString(event.data)
    except DecodeError:
        raise EventMalformed(
            f"event {event.id} ({event.type}, {len(event.data)} bytes) does not decode"
        ) from None


@dataclass(frozen=True, slots=True)
class Projection:
    """One value of a key-value bucket; an empty value says that the thing is gone. An older sequence is refused."""

    bucket: str
    key: str
    value: bytes
    sequence: int


def encode_projection(sequence: int, value: bytes) -> bytes:
    """Eight bytes of sequence, big-endian, then the value."""
    return _SEQUENCE.pack(sequence) + value


def decode_projection(framed: bytes) -> tuple[int, bytes]:
    """The sequence and the value.

    Raises:
        EventMalformed: shorter than eight bytes.
    """
    if len(framed) < _SEQUENCE.size:
        raise EventMalformed(
            f"bucket value of {len(framed)} bytes; at least {_SEQUENCE.size} carry the sequence"
        )
    return _SEQUENCE.unpack_from(framed)[0], framed[_SEQUENCE.size :]
