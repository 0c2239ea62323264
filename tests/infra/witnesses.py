"""Proof of one project's bill by witnesses that are none of the platform's tables.

The clients' log says what was asked and what came back; the engines' token logs say what was made, by record id; the
keepers' files say how long instances lived; /proc says what runs. Every check returns a sentence a difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import Any

import psutil
from modelyard.billing.v1 import billing_pb2
from modelyard.deploy.v1 import deploy_pb2
from modelyard.type.v1 import money_pb2, usage_pb2
from modelyard_client import Modelyard

from chassis.ids import uid_time_ms
from cli.session import collect
from engines.token_log import read_token_log
from services.deploy.compute.records import InstanceFolder, read_record
from tests.infra.load import CALL_S_MAX, Call, End, Usage, Way

# Two of the journal's commits, at most 50 ms apart, and the fsync of each on a busy disk.
CHECKPOINT_S_MAX = 0.3
LIFE_MS_DIFF_MAX = 100
# How long after its client has gone a call may still run in an engine.
ABANDONED_S_MAX = 10.0
# A keeper beats every second; an instance whose keeper was killed is billed to the last beat.
BEAT_MS_MAX = 1000 + LIFE_MS_DIFF_MAX
TOKENS = (money_pb2.METER_INPUT_TOKENS, money_pb2.METER_OUTPUT_TOKENS)
# Refusals that tell a customer that the call was wrong; a right call never hears them, whatever dies.
_BLAMING = ("400", "401", "403", "404", "INVALID_ARGUMENT", "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND")


@dataclass(frozen=True)
class Fault:
    """One thing that went wrong, and when.

    Attributes:
        at_s: `time.monotonic` just before.
        at_ms: Unix milliseconds just after.
        engine_lost: Whether an engine died with what it had under way, which its token log then does not tell.
        keepers: Instances whose keeper was killed.
    """

    part: str
    at_s: float
    at_ms: int
    engine_lost: bool = False
    keepers: frozenset[str] = frozenset()

    def in_life_of(self, call: Call) -> bool:
        """Whether it may have met the call, or what was left of it when its client had gone."""
        return call.begun_s <= self.at_s and (call.ended_s is None or self.at_s <= call.ended_s + ABANDONED_S_MAX)


@dataclass(frozen=True)
class EngineCount:
    """One line of a token log."""

    instance_uid: str
    usage: Usage
    end: str


def engine_counts(instances_dir: Path) -> dict[str, list[EngineCount]]:
    """What every engine said it made, by record id."""
    counts: dict[str, list[EngineCount]] = {}
    for path in sorted(instances_dir.glob("*/tokens.jsonl")):
        for line in read_token_log(path):
            usage = Usage(int(line["input_tokens"]), int(line["output_tokens"]))
            counts.setdefault(str(line["request_id"]), []).append(
                EngineCount(path.parent.name, usage, str(line["end"]))
            )
    return counts


@dataclass(frozen=True)
class Ledger:
    """What billing says of one project, in one month."""

    records: Sequence[usage_pb2.UsageRecord]
    bill: billing_pb2.Bill
    windows: Sequence[billing_pb2.LineEvent]
    reconciled: billing_pb2.ReconcileResponse

    @classmethod
    async def read(cls, modelyard: Modelyard, parent: str) -> Ledger:
        """Ask for everything."""
        posted = await collect(modelyard.billing.ListUsage, billing_pb2.ListUsageRequest(parent=parent), "usage")
        bill = await modelyard.billing.GetBill(billing_pb2.GetBillRequest(parent=parent))
        windows: list[billing_pb2.LineEvent] = []
        for line in bill.lines:
            if line.rate.meter == money_pb2.METER_CORE_MILLISECONDS:
                request = billing_pb2.ExplainLineRequest(parent=parent, line=line.id)
                windows += await collect(modelyard.billing.ExplainLine, request, "events")
        reconciled = await modelyard.billing.Reconcile(billing_pb2.ReconcileRequest(parent=parent))
        return cls([one.record for one in posted], bill, windows, reconciled)

    def billed_core_ms(self) -> Counter[str]:
        """Core-milliseconds by instance."""
        billed: Counter[str] = Counter()
        for window in self.windows:
            billed[window.instance_uid] += window.quantity
        return billed


def usage_of(record: usage_pb2.UsageRecord) -> Usage:
    """Tokens of a record."""
    counted = {quantity.meter: quantity.value for quantity in record.quantities}
    return Usage(*(counted.get(meter, 0) for meter in TOKENS))


def check_calls(
    calls: Sequence[Call], ledger: Ledger, engines: Mapping[str, Sequence[EngineCount]], faults: Sequence[Fault]
) -> list[str]:
    """Every call beside its record.

    - No record stands twice, and none belongs to no call.
    - A completed call has one, with the usage that the client and the engine saw.
    - A refused call has none, or one at zero where it was admitted; a right call is never told that it was wrong.
    - A call that was cut or left has at most one, and one from the first piece of text on. It bills no more than the
      engine made, and no less than came, but for what came within the journal's last interval before a fault in its
      life. Where our side cut it, it bills no more than the client received: nothing of an answer that comes as a whole.
    """
    found: list[str] = []
    by_request: dict[str, list[usage_pb2.UsageRecord]] = {}
    for record in ledger.records:
        by_request.setdefault(record.request_id, []).append(record)
    found += [
        f"record {record_id} stands {count} times"
        for record_id, count in Counter(record.id for record in ledger.records).items()
        if count > 1
    ]
    read = {(call.plan.way is Way.EMBEDDINGS, call.plan.question): call.usage for call in calls if call.usage}
    for call in calls:
        own = by_request.pop(call.request_id, [])
        asked = read.get((call.plan.way is Way.EMBEDDINGS, call.plan.question))
        input_tokens = asked.input_tokens if asked else None
        met = [fault for fault in faults if fault.in_life_of(call)]
        found += [f"{call}: {why}" for why in _differences(call, own, engines, met, input_tokens)]
    return found + [f"record {record.id} belongs to no call" for own in by_request.values() for record in own]


def _differences(
    call: Call,
    own: Sequence[usage_pb2.UsageRecord],
    engines: Mapping[str, Sequence[EngineCount]],
    met: Sequence[Fault],
    input_tokens: int | None,
) -> Iterable[str]:
    if call.end is None:
        yield "has not ended"
        return
    if call.status in ("ReadTimeout", "DEADLINE_EXCEEDED Deadline Exceeded"):
        yield f"was forgotten for {CALL_S_MAX:g} s"
    if len(own) > 1:
        yield f"has {len(own)} records"
        return
    record = own[0] if own else None
    if record is not None and call.record_id not in ("", record.id):
        yield f"was named {call.record_id} and has record {record.id}"
    made = engines.get(record.id, ()) if record is not None else ()
    if call.end is End.COMPLETED:
        yield from _differences_of_completed(call, record, made)
    elif call.end is End.REFUSED:
        yield from _differences_of_refused(call, record)
    else:
        yield from _differences_of_broken(call, record, made, met, input_tokens)


def _differences_of_completed(
    call: Call, record: usage_pb2.UsageRecord | None, made: Sequence[EngineCount]
) -> Iterable[str]:
    if not call.plan.valid:
        yield "was answered, and must not be"
    if record is None:
        yield "has no record"
        return
    if record.outcome != usage_pb2.OUTCOME_COMPLETED or usage_of(record) != call.usage:
        yield f"saw {call.usage}, {_said(record)}"
    if [one.usage for one in made] != [call.usage]:
        yield f"saw {call.usage}, the engine made {list(made)}"


def _differences_of_refused(call: Call, record: usage_pb2.UsageRecord | None) -> Iterable[str]:
    if call.plan.valid and call.status.startswith(_BLAMING):
        yield "was right, and blamed"
    if record is None:
        return
    if not call.plan.valid:
        yield f"was not to be admitted, {_said(record)}"
    if usage_of(record) != Usage(0, 0):
        yield f"heard no answer, {_said(record)}"


def _differences_of_broken(
    call: Call,
    record: usage_pb2.UsageRecord | None,
    made: Sequence[EngineCount],
    met: Sequence[Fault],
    input_tokens: int | None,
) -> Iterable[str]:
    if record is None:
        if call.piece_times_s:
            yield f"heard {call.output_tokens_min} pieces and has no record"
        return
    billed = usage_of(record)
    is_interrupted = record.outcome == usage_pb2.OUTCOME_INTERRUPTED
    # An engine that died told nobody what it had made; then what was asked for is the limit.
    engine_lost = not made and any(fault.engine_lost for fault in met)
    made_max = call.plan.max_tokens if engine_lost else sum(one.usage.output_tokens for one in made)
    if billed.output_tokens > made_max:
        yield f"the engine made {made_max} tokens, {_said(record)}"
    sure_until_s = min((fault.at_s - CHECKPOINT_S_MAX for fault in met), default=inf)
    sure = [at_s for at_s in call.piece_times_s if not is_interrupted or at_s < sure_until_s]
    if billed.output_tokens < len(sure):
        yield f"heard {len(sure)} pieces and more than {CHECKPOINT_S_MAX:g} s before a fault, {_said(record)}"
    # One that left does not know what was still on its way.
    if is_interrupted and call.end is End.CUT and billed.output_tokens > call.output_tokens_max:
        yield f"was cut by us and heard {call.output_tokens_max} tokens, {_said(record)}"
    if input_tokens is not None and billed.input_tokens not in (0, input_tokens):
        yield f"its question has {input_tokens} tokens, {_said(record)}"


@dataclass
class CutTokens:
    """Output tokens of the calls that were cut or left and whose engine told what it made.

    Attributes:
        heard: At least as many came to the clients.
        billed: As their records say.
        made: As the engines' token logs say.
    """

    heard: int = 0
    billed: int = 0
    made: int = 0

    @classmethod
    def of(cls, calls: Sequence[Call], ledger: Ledger, engines: Mapping[str, Sequence[EngineCount]]) -> CutTokens:
        """Sum over one tenant's calls."""
        records = {record.request_id: record for record in ledger.records}
        tokens = cls()
        for call in calls:
            record = records.get(call.request_id)
            made = engines.get(record.id, ()) if record is not None else ()
            if call.end not in (End.CUT, End.LEFT) or record is None or not made:
                continue
            tokens.heard += call.output_tokens_min
            tokens.billed += usage_of(record).output_tokens
            tokens.made += sum(one.usage.output_tokens for one in made)
        return tokens


def _said(record: usage_pb2.UsageRecord) -> str:
    outcome = usage_pb2.Outcome.Name(record.outcome).removeprefix("OUTCOME_")
    return f"record {record.id} says {outcome} {usage_of(record)}"


def check_bill(ledger: Ledger) -> list[str]:
    """Every line is the sum of its records at its rate, rounded once; nothing else is billed; Reconcile agrees."""
    found = [f"reconcile: {one.kind}: {one.detail}" for one in ledger.reconciled.differences]
    sums: Counter[tuple[str, str, int]] = Counter()
    unrated: Counter[int] = Counter()
    for record in ledger.records:
        for quantity in record.quantities:
            if record.price_version and quantity.meter in TOKENS:
                sums[(record.deployment_uid, record.key_id, quantity.meter)] += quantity.value
            else:
                unrated[quantity.meter] += quantity.value
    lines: Counter[tuple[str, str, int]] = Counter()
    for line in ledger.bill.lines:
        if line.rate.meter != money_pb2.METER_CORE_MILLISECONDS:
            lines[(line.deployment_uid, line.key_id, line.rate.meter)] += line.quantity
        elif line.quantity != sum(window.quantity for window in ledger.windows):
            found.append(f"line {line.id} of core-milliseconds is not the sum of its windows")
        if Decimal(line.amount) != (amount := _amount(line)):
            found.append(f"line {line.id} says {line.amount} for {line.quantity}, and its rate makes {amount}")
    found += [
        f"{key}: records sum to {sums[key]}, lines to {lines[key]}" for key in sums | lines if sums[key] != lines[key]
    ]
    billed_unrated: Counter[int] = Counter({one.meter: one.value for one in ledger.bill.unrated})
    found += [
        f"unrated meter {meter}: records sum to {unrated[meter]}, the bill says {billed_unrated[meter]}"
        for meter in unrated | billed_unrated
        if unrated[meter] != billed_unrated[meter]
    ]
    if Decimal(ledger.bill.total) != sum(Decimal(line.amount) for line in ledger.bill.lines):
        found.append(f"the bill's total {ledger.bill.total} is not the sum of its lines")
    return found


def _amount(line: billing_pb2.BillLine) -> Decimal:
    exact = Fraction(line.rate.amount) * line.quantity / line.rate.per
    with localcontext(prec=60):
        return (Decimal(exact.numerator) / exact.denominator).quantize(Decimal("0.000001"), ROUND_HALF_EVEN)


@dataclass(frozen=True)
class Life:
    """One instance by its keeper's files, Unix milliseconds; its uid says when it was allocated."""

    instance_uid: str
    engine: str
    vcpus: int
    allocated_ms: int
    started: bool
    exited_ms: int | None


def read_lives(instances_dir: Path) -> dict[str, Life]:
    """Every instance that has a folder, by uid."""
    lives = {}
    for path in sorted(instances_dir.iterdir()) if instances_dir.exists() else ():
        folder = InstanceFolder(path)
        instance, exited = read_record(folder.instance), read_record(folder.exited)
        spec: dict[str, Any] = instance["spec"] if instance else {"engine": "", "vcpus": 0}
        lives[path.name] = Life(
            path.name,
            spec["engine"],
            spec["vcpus"],
            uid_time_ms(path.name),
            read_record(folder.started) is not None,
            int(exited["exited_at_ms"]) if exited else None,
        )
    return lives


async def instance_owners(modelyard: Modelyard) -> dict[str, str]:
    """Whose each instance is or was: a deployment's resource name, or `pool`."""
    request = deploy_pb2.ListInstancesRequest(show_released=True)
    listed = await collect(modelyard.deploy.ListInstances, request, "instances")
    return {instance.uid: instance.owner for instance in listed}


def check_lives(
    lives: Mapping[str, Life], owners: Mapping[str, str], deployment: str, ledger: Ledger, faults: Sequence[Fault]
) -> list[str]:
    """Each instance of a deleted deployment is billed for its life, to within 100 ms a core.

    One whose keeper was killed lived until then, and is billed to a moment at most one beat earlier. An instance
    without a keeper's record is not billed, and no folder is of an instance that deploy does not know.
    """
    found = [f"instance {uid} runs and deploy does not know it" for uid in lives.keys() - owners.keys()]
    billed = ledger.billed_core_ms()
    own = {uid for uid, owner in owners.items() if owner == deployment}
    killed_ms = {uid: fault.at_ms for fault in faults for uid in fault.keepers}
    found += [f"instance {uid} is billed and is not of {deployment}" for uid in billed.keys() - own]
    found += [f"the window of instance {window.instance_uid} is open" for window in ledger.windows if window.open]
    for uid in sorted(own):
        life = lives.get(uid)
        if life is None or not life.started:
            if billed[uid]:
                found.append(f"instance {uid} never ran and is billed {billed[uid]} core-ms")
            continue
        if life.exited_ms is None:
            found.append(f"instance {uid} has no end in its keeper's files")
            continue
        is_killed = uid in killed_ms
        lived = life.vcpus * (killed_ms.get(uid, life.exited_ms) - life.allocated_ms)
        less = lived - billed[uid]
        less_max = life.vcpus * (BEAT_MS_MAX if is_killed else LIFE_MS_DIFF_MAX)
        more_max = 0 if is_killed else life.vcpus * LIFE_MS_DIFF_MAX
        if not -more_max <= less <= less_max:
            found.append(f"instance {uid} lived {lived} core-ms and is billed {billed[uid]}")
    return found


@dataclass(frozen=True)
class InstanceProcess:
    """A process of an instance. `role` is "keeper", "triton" or "stub"."""

    instance_uid: str
    role: str
    pid: int


def instance_processes(data_dir: Path) -> list[InstanceProcess]:
    """What runs of a platform's instances, by the command lines that name its folder; a zombie does not run."""
    marker = f"{data_dir / 'deploy' / 'instances'}/"
    found = []
    for process in psutil.process_iter():
        try:
            arguments = process.cmdline()
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        naming = next((argument for argument in arguments if marker in argument), None)
        if naming is not None:
            uid = naming.partition(marker)[2].partition("/")[0]
            found.append(InstanceProcess(uid, _role(arguments), process.pid))
    return found


def _role(arguments: Sequence[str]) -> str:
    program = Path(arguments[0]).name
    if "services.deploy.compute.keeper" in arguments:
        return "keeper"
    return {"tritonserver": "triton", "triton_python_backend_stub": "stub"}.get(program, program)


def check_processes(data_dir: Path, lives: Mapping[str, Life]) -> list[str]:
    """Each instance that lives has one keeper, one Triton and one stub; nothing runs beside them."""
    living = {uid for uid, life in lives.items() if life.started and life.exited_ms is None}
    running = Counter((process.instance_uid, process.role) for process in instance_processes(data_dir))
    wanted = Counter((uid, role) for uid in living for role in ("keeper", "triton", "stub"))
    return [
        f"{running[key]} {key[1]} of instance {key[0]} run, and not {wanted[key]}"
        for key in running | wanted
        if running[key] != wanted[key]
    ]
