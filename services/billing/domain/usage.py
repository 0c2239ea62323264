"""Usage records: what makes one valid, and the digest by which duplicates are told from conflicts."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from datetime import datetime

from services.billing.domain.errors import RecordInvalid
from services.billing.domain.meters import CALL_METERS

QUANTITY_MAX = 10**12


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

    def quantity(self, meter: int) -> int:
        """The amount of one meter; 0 where it was not counted."""
        return next((value for counted, value in self.quantities if counted == meter), 0)


def digest(fact: UsageFact) -> str:
    """SHA-256 over every field, lower-case hex: equal content has equal digests whoever sends it."""
    content = json.dumps(
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
        ],
        separators=(",", ":"),
    )
    return hashlib.sha256(content.encode()).hexdigest()


def check_usage(fact: UsageFact) -> None:
    """Refuse what cannot be true.

    Raises:
        RecordInvalid: naming the field, its value and what is allowed.
    """
    if not _is_uuid7(fact.id):
        raise RecordInvalid(f"record id {fact.id[:64]!r} is not a UUIDv7", field="id")
    for name in ("journal_id", "project_uid", "endpoint_uid", "deployment_uid"):
        if not _is_uuid(getattr(fact, name)):
            raise RecordInvalid(f"record {fact.id}: {name} {getattr(fact, name)[:64]!r} is not a UUID", field=name)
    if fact.journal_seq < 1:
        raise RecordInvalid(
            f"record {fact.id}: journal_seq {fact.journal_seq}; at least 1 is allowed", field="journal_seq"
        )
    if fact.outcome == 0:
        raise RecordInvalid(f"record {fact.id} has no outcome", field="outcome")
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


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _is_uuid7(text: str) -> bool:
    return _is_uuid(text) and uuid.UUID(text).version == 7


def contiguous(committed: int, present: list[int]) -> int:
    """How far a journal is committed without a gap, given the sequences that are present above `committed`, ascending."""
    for sequence in present:
        if sequence > committed + 1:
            break
        committed = max(committed, sequence)
    return committed
