"""Usage records: what makes one valid, and the digest by which duplicates are told from conflicts."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from services.billing.domain.errors import RecordInvalid
from services.billing.domain.meters import CALL_METERS

QUANTITY_MAX = 10**12
SEQUENCE_MAX = 2**63 - 1
# What a sender wrote that is no moment.
NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)
# The platform is younger.
OCCUR_TIME_MIN = datetime(2020, 1, 1, tzinfo=UTC)
_ENCODER = json.JSONEncoder(separators=(",", ":"))
# `uuid.UUID` takes nine times as long, and every record has five. A version and a variant stand at fixed places.
_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_UID_V7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
# Characters of each text; together they fit the key of a rollup and an event of the broker.
LENGTHS_MAX = {
    "model_version": 512,
    "key_id": 128,
    "price_version": 256,
    "quote": 512,
    "request_id": 128,
    "traceparent": 55,
}


@dataclass(frozen=True, slots=True)
class UsageFact:
    """One call as inference recorded it; `quantities` are (meter, value), ordered by meter."""

    id: str
    journal_id: str
    journal_seq: int
    project_uid: str
    endpoint_uid: str
    deployment_uid: str
    model_version: str
    key_id: str
    price_version: str
    quote: str
    outcome: int
    occur_time: datetime
    quantities: tuple[tuple[int, int], ...]
    request_id: str
    # W3C trace context of the call; empty where it was not traced.
    traceparent: str = ""

    def quantity(self, meter: int) -> int:
        """The amount of one meter; 0 where it was not counted."""
        return next((value for counted, value in self.quantities if counted == meter), 0)


def digest(fact: UsageFact) -> str:
    """SHA-256 over every field that is billed or explains a bill, lower-case hex.

    Equal content has equal digests whoever sends it. The trace context explains no bill and is left out.
    """
    content = _ENCODER.encode(
        [
            fact.id,
            fact.journal_id,
            fact.journal_seq,
            fact.project_uid,
            fact.endpoint_uid,
            fact.deployment_uid,
            fact.model_version,
            fact.key_id,
            fact.price_version,
            fact.quote,
            fact.outcome,
            fact.occur_time.isoformat(),
            fact.quantities,
            fact.request_id,
        ]
    )
    return hashlib.sha256(content.encode()).hexdigest()


def check_usage(fact: UsageFact) -> None:
    """Refuse what cannot be true.

    Raises:
        RecordInvalid: naming the field, its value and what is allowed.
    """
    if not _UID_V7.fullmatch(fact.id):
        raise RecordInvalid(f"record id {fact.id[:64]!r} is not a UUIDv7", field="id")
    for name in ("journal_id", "project_uid", "endpoint_uid", "deployment_uid"):
        if not is_uid(getattr(fact, name)):
            raise RecordInvalid(f"record {fact.id}: {name} {getattr(fact, name)[:64]!r} is not a UUID", field=name)
    for name, length_max in LENGTHS_MAX.items():
        text = getattr(fact, name)
        if len(text) > length_max or not text.isprintable():
            raise RecordInvalid(
                f"record {fact.id}: {name} {text[:64]!r} has {len(text)} characters; up to {length_max} printable ones "
                "are allowed",
                field=name,
            )
    if not 1 <= fact.journal_seq <= SEQUENCE_MAX:
        raise RecordInvalid(
            f"record {fact.id}: journal_seq {fact.journal_seq}; 1 to {SEQUENCE_MAX} are allowed", field="journal_seq"
        )
    if fact.outcome < 1:
        raise RecordInvalid(f"record {fact.id} has no outcome", field="outcome")
    if fact.occur_time < OCCUR_TIME_MIN:
        raise RecordInvalid(
            f"record {fact.id}: occur_time {fact.occur_time.isoformat()} is missing or before {OCCUR_TIME_MIN.year}",
            field="occur_time",
        )
    meters = [meter for meter, _ in fact.quantities]
    if len(meters) != len(set(meters)):
        raise RecordInvalid(f"record {fact.id} counts a meter twice: {meters}", field="quantities")
    for meter, value in fact.quantities:
        if meter not in CALL_METERS:
            raise RecordInvalid(f"record {fact.id}: meter {meter} is not counted by calls", field="quantities")
        if not 0 <= value <= QUANTITY_MAX:
            raise RecordInvalid(
                f"record {fact.id}: quantity {value} of meter {meter}; 0 to {QUANTITY_MAX} are allowed",
                field="quantities",
            )


def is_uid(text: str) -> bool:
    """Whether this is a UUID as the platform writes them: lower case with hyphens."""
    return _UID.fullmatch(text) is not None


def contiguous(committed: int, present: list[int]) -> int:
    """How far a journal is committed without a gap, given the sequences that are present above `committed`, ascending."""
    for sequence in present:
        if sequence > committed + 1:
            break
        committed = max(committed, sequence)
    return committed
