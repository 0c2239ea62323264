"""Three witnesses of one bill: the client's log, the keepers' files, and the ledger.

None of them reads another's tables: the client saw its answers, the keepers saw the processes, billing saw events.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelyard.billing.v1 import billing_pb2
from modelyard.type.v1 import money_pb2

from chassis.ids import uid_time_ms
from cli.demo.client_log import Call

TOKEN_METERS = (money_pb2.METER_INPUT_TOKENS, money_pb2.METER_OUTPUT_TOKENS)


@dataclass(frozen=True)
class InstanceLife:
    """One instance's life by its keeper's files, Unix milliseconds: its uid says when it was allocated."""

    instance_uid: str
    vcpus: int
    allocated_ms: int
    exited_ms: int | None

    @property
    def core_ms(self) -> int:
        return 0 if self.exited_ms is None else self.vcpus * (self.exited_ms - self.allocated_ms)


@dataclass(frozen=True)
class Comparison:
    """One fact, as two witnesses state it."""

    fact: str
    first: str
    first_value: int
    second: str
    second_value: int

    @property
    def agrees(self) -> bool:
        return self.first_value == self.second_value


def keeper_lives(instances_dir: Path, instance_uids: Iterable[str]) -> list[InstanceLife]:
    """Lives of these instances, read from the files that their keepers wrote."""
    lives = []
    for uid in sorted(instance_uids):
        folder = instances_dir / uid
        spec = json.loads((folder / "instance.json").read_text())["spec"]
        exited = folder / "exited.json"
        exited_ms = int(json.loads(exited.read_text())["exited_at_ms"]) if exited.exists() else None
        lives.append(InstanceLife(uid, int(spec["vcpus"]), uid_time_ms(uid), exited_ms))
    return lives


def compare(
    calls: Sequence[Call],
    lives: Sequence[InstanceLife],
    records: Sequence[billing_pb2.PostedUsage],
    bill: billing_pb2.Bill,
) -> list[Comparison]:
    """What the client and the keepers saw, beside what the ledger billed."""
    answered = [call for call in calls if call.answered]
    serverless = [call for call in answered if call.serverless]
    compared = [Comparison("calls", "answered by the client's log", len(answered), "usage records", len(records))]
    reported = {
        money_pb2.METER_INPUT_TOKENS: sum(call.input_tokens for call in serverless),
        money_pb2.METER_OUTPUT_TOKENS: sum(call.output_tokens for call in serverless),
    }
    billed: Counter[int] = Counter()
    for line in bill.lines:
        billed[line.rate.meter] += line.quantity
    for meter, name in zip(TOKEN_METERS, ("input", "output"), strict=True):
        compared.append(
            Comparison(f"serverless {name} tokens", "last usage of each call", reported[meter], "billed", billed[meter])
        )
    compared.append(
        Comparison(
            "core-milliseconds",
            "instance lives by the keepers' files",
            sum(life.core_ms for life in lives),
            "billed",
            billed[money_pb2.METER_CORE_MILLISECONDS],
        )
    )
    return compared


def differences(
    calls: Sequence[Call], lives: Sequence[InstanceLife], records: Sequence[billing_pb2.PostedUsage]
) -> list[str]:
    """Every single call and instance on which the witnesses disagree, in one sentence each."""
    found = [f"instance {life.instance_uid} has no end in its keeper's files" for life in lives if not life.exited_ms]
    by_request: dict[str, list[billing_pb2.PostedUsage]] = {}
    for posted in records:
        by_request.setdefault(posted.record.request_id, []).append(posted)
    for call in calls:
        own = by_request.pop(call.request_id, [])
        if call.answered and len(own) != 1:
            found.append(f"call {call.request_id} was answered and has {len(own)} usage records")
        for one in own:
            counted = {quantity.meter: quantity.value for quantity in one.record.quantities}
            recorded = tuple(counted.get(meter, 0) for meter in TOKEN_METERS)
            if recorded != (call.input_tokens, call.output_tokens):
                found.append(
                    f"call {call.request_id}: the client saw {call.input_tokens} tokens in and {call.output_tokens} "
                    f"out, record {one.record.id} has {recorded[0]} and {recorded[1]}"
                )
            if call.record_id and call.record_id != one.record.id:
                found.append(f"call {call.request_id} was named {call.record_id}; its record is {one.record.id}")
    found += [
        f"record {one.record.id} belongs to no call of the client" for many in by_request.values() for one in many
    ]
    return found
