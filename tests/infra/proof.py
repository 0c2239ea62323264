"""What must hold of a ledger whatever died: the client's log, the engines' token logs and the keepers' files agree.

None of the witnesses is a table of the platform.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chassis.ids import uid_time_ms
from engines.token_log import read_token_log
from tests.infra.load import LoadCall, Seen

# Tokens that one instance may make between two commits of the journal (50 ms) on a fast machine.
INTERVAL_TOKENS_MAX = 16
# A piece of text may hold more than one token where a character is made of several.
PIECE_TOKENS_EXTRA = 2


@dataclass(frozen=True)
class Record:
    """One usage record as the ledger shows it."""

    id: str
    request_id: str
    outcome: str
    input_tokens: int
    output_tokens: int

    @classmethod
    def from_json(cls, posted: Mapping[str, Any]) -> Record:
        """From `modelyard usage --json`."""
        record = posted["record"]
        counted = {one["meter"]: int(one["value"]) for one in record["quantities"]}
        return cls(
            record["id"],
            record["request_id"],
            record["outcome"].removeprefix("OUTCOME_"),
            counted.get("METER_INPUT_TOKENS", 0),
            counted.get("METER_OUTPUT_TOKENS", 0),
        )


def engine_counts(instances_dir: Path) -> dict[str, int]:
    """Tokens that engines made, by the id of the usage record; a killed engine leaves out what it had under way."""
    made: dict[str, int] = {}
    for path in sorted(instances_dir.glob("*/tokens.jsonl")):
        for line in read_token_log(path):
            request_id = str(line["request_id"])
            made[request_id] = made.get(request_id, 0) + int(line["output_tokens"])
    return made


def broken_rules(calls: Sequence[LoadCall], records: Iterable[Record], made: Mapping[str, int]) -> list[str]:
    """Every call that the ledger does not hold as it must, in one sentence each.

    - A completed call has one record, with the usage that its client saw.
    - A refused call has none, or one that counts no tokens.
    - A cut call has one record from the moment its first output left. It bills at most what the engine made, at least
      what was delivered less one interval of the journal, and at most what was delivered where our side cut it.
    - No record belongs to nobody, and none stands twice.
    """
    found: list[str] = []
    by_request: dict[str, list[Record]] = {}
    seen_ids: set[str] = set()
    for record in records:
        by_request.setdefault(record.request_id, []).append(record)
        if record.id in seen_ids:
            found.append(f"record {record.id} stands twice")
        seen_ids.add(record.id)
    for call in calls:
        own = by_request.pop(call.request_id, [])
        found += [f"{_name(call)}: {why}" for why in _broken(call, own, made)]
    found += [f"record {record.id} belongs to no call" for own in by_request.values() for record in own]
    return found


def _broken(call: LoadCall, own: Sequence[Record], made: Mapping[str, int]) -> Iterable[str]:
    if len(own) > 1:
        yield f"{len(own)} records"
        return
    record = own[0] if own else None
    if call.seen is Seen.COMPLETED:
        if record is None:
            yield "lost"
        elif (record.input_tokens, record.output_tokens) != (call.input_tokens, call.output_tokens):
            yield f"the client saw {call.input_tokens} and {call.output_tokens} tokens, {record} is billed"
        return
    if call.seen is Seen.REFUSED:
        # The client may have been cut off an answer that was whole but for its first byte: then it is billed as made.
        if record is not None and record.output_tokens > made.get(record.id, call.max_tokens):
            yield f"refused, and {record} bills more than the engine made"
        if record is not None and call.detail.isdigit() and (record.input_tokens or record.output_tokens):
            yield f"refused with {call.detail}, and {record} is billed"
        return
    if record is None:
        yield f"cut after {call.pieces} pieces ({call.detail}), and nothing is billed"
        return
    if record.output_tokens > made.get(record.id, call.max_tokens):
        yield f"{record} bills more than the engine's {made.get(record.id, call.max_tokens)}"
    if record.output_tokens < call.pieces - INTERVAL_TOKENS_MAX:
        yield f"{record} bills less than {call.pieces} delivered pieces less one interval"
    if record.outcome == "INTERRUPTED" and record.output_tokens > call.pieces + PIECE_TOKENS_EXTRA:
        yield f"{record} was cut by us and bills more than the {call.pieces} delivered pieces"


def _name(call: LoadCall) -> str:
    return f"{call.kind} call {call.request_id} to {call.endpoint} ({call.seen.value})"


@dataclass(frozen=True)
class Life:
    """One instance by its keeper's files; its uid says when it was allocated."""

    uid: str
    vcpus: int
    allocated_ms: int
    exited_ms: int | None


def read_life(instances_dir: Path, uid: str) -> Life:
    """What the keeper wrote, or what was written for it when it was killed."""
    folder = instances_dir / uid
    spec = json.loads((folder / "instance.json").read_text())["spec"]
    exited = folder / "exited.json"
    exited_ms = int(json.loads(exited.read_text())["exited_at_ms"]) if exited.exists() else None
    return Life(uid, int(spec["vcpus"]), uid_time_ms(uid), exited_ms)
