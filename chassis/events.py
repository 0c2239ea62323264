"""Events (CloudEvents 1.0, binary mode on NATS headers, protobuf body) and key-value projections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from chassis.errors import Code, Problem
from chassis.ids import new_uid
from chassis.telemetry import traceparent

M = TypeVar("M", bound=Message)

NO_PROJECT = "_"
SEQUENCE_MAX = (1 << 63) - 1
_SEQUENCE_BYTES = 8


class EventMalformed(Problem):
    """A message on the broker is no event of the platform."""

    code = Code.INVALID_ARGUMENT
    reason = "EVENT_MALFORMED"


@dataclass(frozen=True, slots=True)
class Event:
    """A thin fact that something happened.

    Attributes:
        owner: The service that owns the fact, such as "deploy".
        resource: What it is about, such as "instance".
        action: Past participle, such as "allocated"; words joined by dashes.
        project_uid: The project it belongs to, or None.
        type: Full name of the protobuf message in `data`.
        aggregate_uid: Immutable id of the thing it is about.
        sequence: Position among the events of its aggregate, >= 0; order-sensitive handlers compare it.
        time: When it happened, aware.
        id: Same as the outbox row, `Nats-Msg-Id` and the inbox row.
        traceparent: W3C trace context of what raised it; empty while nothing is traced.
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
    id: str = field(default_factory=new_uid)
    traceparent: str = ""

    @property
    def subject(self) -> str:
        """`modelyard.<owner>.v1.<resource>.<action>.<project uid or _>`"""
        project = self.project_uid or NO_PROJECT
        return f"modelyard.{self.owner}.v1.{self.resource}.{self.action}.{project}"

    def headers(self) -> dict[str, str]:
        """What travels beside the body."""
        return {
            "ce-specversion": "1.0",
            "ce-id": self.id,
            "ce-type": self.type,
            "ce-source": f"modelyard.{self.owner}",
            "ce-subject": self.aggregate_uid,
            "ce-time": self.time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "ce-sequence": str(self.sequence),
            "ce-datacontenttype": "application/protobuf",
            "Nats-Msg-Id": self.id,
            **({"traceparent": self.traceparent} if self.traceparent else {}),
        }


class BrokerMessage(Protocol):
    """The parts of a broker's message an event is read from."""

    @property
    def subject(self) -> str: ...
    @property
    def data(self) -> bytes: ...
    @property
    def headers(self) -> Mapping[str, str] | None: ...


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
    """Wrap a protobuf message as a new event; equal messages have equal bytes."""
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
        traceparent=traceparent(),
    )


def event_from_message(message: BrokerMessage) -> Event:
    """Read an event back.

    Raises:
        EventMalformed: a header is missing or malformed, or the subject has another form.
    """
    return event_from_parts(message.subject, message.headers or {}, message.data)


def event_from_parts(subject: str, headers: Mapping[str, str], data: bytes) -> Event:
    """Read an event from its subject, headers and body, as a dead letter keeps them.

    Raises:
        EventMalformed: a header is missing or malformed, or the subject has another form.
    """
    tokens = subject.split(".")
    if len(tokens) != 6 or tokens[0] != "modelyard" or tokens[2] != "v1":
        raise EventMalformed(
            f'subject "{subject}" is not of the form modelyard.<owner>.v1.<resource>.<action>.<project>'
        )
    try:
        return Event(
            owner=tokens[1],
            resource=tokens[3],
            action=tokens[4],
            project_uid=None if tokens[5] == NO_PROJECT else tokens[5],
            type=headers["ce-type"],
            data=data,
            aggregate_uid=headers["ce-subject"],
            sequence=int(headers["ce-sequence"]),
            id=headers["ce-id"],
            time=datetime.fromisoformat(headers["ce-time"]),
            traceparent=headers.get("traceparent", ""),
        )
    except KeyError as err:
        raise EventMalformed(f'message on "{subject}" has no header {err}') from err
    except ValueError as err:
        raise EventMalformed(f'message on "{subject}" has a malformed header: {err}') from err


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
    except DecodeError as err:
        raise EventMalformed(f"event {event.id} ({event.type}, {len(event.data)} bytes) does not decode") from err


@dataclass(frozen=True, slots=True)
class Projection:
    """The state of one key in a key-value bucket.

    Attributes:
        value: A serialized protobuf message; empty when the thing is gone.
        sequence: Grows with each change of the thing, 0 to 2^63 - 1; an older one never replaces a newer one.
    """

    bucket: str
    key: str
    value: bytes
    sequence: int


def encode_projection(sequence: int, payload: bytes) -> bytes:
    """Frame a value: eight bytes of sequence, big-endian, then the payload (empty = gone)."""
    if not 0 <= sequence <= SEQUENCE_MAX:
        raise ValueError(f"projection sequence {sequence} is outside 0 to {SEQUENCE_MAX}")
    return sequence.to_bytes(_SEQUENCE_BYTES, "big") + payload


def decode_projection(framed: bytes) -> tuple[int, bytes]:
    """The sequence and the payload of a framed value.

    Raises:
        EventMalformed: shorter than a frame.
    """
    if len(framed) < _SEQUENCE_BYTES:
        raise EventMalformed(f"projection has {len(framed)} bytes; at least {_SEQUENCE_BYTES} are needed")
    return int.from_bytes(framed[:_SEQUENCE_BYTES], "big"), framed[_SEQUENCE_BYTES:]
