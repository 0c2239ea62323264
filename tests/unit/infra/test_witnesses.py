"""The proof itself: each rule is broken once, and found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelyard.billing.v1 import billing_pb2
from modelyard.type.v1 import money_pb2, usage_pb2

from tests.infra.load import Call, End, Plan, Usage, Way
from tests.infra.witnesses import CutTokens, EngineCount, Fault, Ledger, Life, check_bill, check_calls, check_lives

KILLED_S = 100.0
KILLED_MS = 1_700_000_100_000
FAULT = Fault("inference", KILLED_S, KILLED_MS)
DEPLOYMENT = "projects/p/endpoints/managed/deployments/blue"
UID = "01a21145-b544-7863-957b-5d60d0c1accc"
RECORD = "record"
INTERRUPTED = usage_pb2.OUTCOME_INTERRUPTED


def call_of(end: End, *, way: Way = Way.STREAM, pieces: int = 0, usage: Usage | None = None, **changes: object) -> Call:
    """A call to "chat"; its pieces came long before the kill."""
    call = Call(Plan(way, "chat", "Why?", 16), request_id="request", begun_s=0.0, end=end, usage=usage)
    call.text, call.piece_times_s = "a" * pieces, [1.0] * pieces
    for name, value in changes.items():
        setattr(call, name, value)
    return call


def record_of(
    output_tokens: int, outcome: usage_pb2.Outcome.ValueType = INTERRUPTED, *, input_tokens: int = 7, **names: str
) -> usage_pb2.UsageRecord:
    """Its record, on a managed deployment."""
    record = usage_pb2.UsageRecord(**{"id": RECORD, "request_id": "request", **names}, outcome=outcome)
    record.quantities.add(meter=money_pb2.METER_INPUT_TOKENS, value=input_tokens)
    record.quantities.add(meter=money_pb2.METER_OUTPUT_TOKENS, value=output_tokens)
    return record


def ledger_of(
    *records: usage_pb2.UsageRecord,
    lines: Sequence[billing_pb2.BillLine] = (),
    windows: Sequence[billing_pb2.LineEvent] = (),
    total: str = "0",
) -> Ledger:
    """A ledger that reconciles."""
    return Ledger(records, billing_pb2.Bill(lines=lines, total=total), windows, billing_pb2.ReconcileResponse())


def made(output_tokens: int) -> dict[str, list[EngineCount]]:
    """What the engine says of the call."""
    return {RECORD: [EngineCount(UID, Usage(7, output_tokens), "stop")]}


def found(
    call: Call,
    *records: usage_pb2.UsageRecord,
    engines: Mapping[str, Sequence[EngineCount]] | None = None,
    fault: Fault = FAULT,
) -> str:
    """Everything found, as one text."""
    return "\n".join(check_calls([call], ledger_of(*records), made(5) if engines is None else engines, [fault]))


def test_a_completed_call_has_one_record_equal_to_its_usage() -> None:
    """Right, lost, other than the client saw, and other than the engine made."""
    call, record = call_of(End.COMPLETED, usage=Usage(7, 5)), record_of(5, usage_pb2.OUTCOME_COMPLETED)
    assert found(call, record) == ""
    assert "has no record" in found(call)
    assert "Usage(input_tokens=7, output_tokens=6)" in found(call, record_of(6, usage_pb2.OUTCOME_COMPLETED))
    assert "the engine made" in found(call, record, engines=made(6))


def test_no_record_stands_twice_or_belongs_to_nobody() -> None:
    """The same id twice, two ids of one call, and a record of no call."""
    call, record = call_of(End.CUT, pieces=5), record_of(5)
    assert "stands 2 times" in found(call, record, record)
    assert "has 2 records" in found(call, record, record_of(5, id="other"))
    assert "belongs to no call" in found(call, record, record_of(5, id="other", request_id="stranger"))


def test_a_refused_call_is_free() -> None:
    """No record or one at zero; a call that was not to be admitted has none."""
    call = call_of(End.REFUSED, status="503 engine_failed")
    nothing = record_of(0, usage_pb2.OUTCOME_FAILED, input_tokens=0)
    assert found(call) == found(call, nothing) == ""
    assert "heard no answer" in found(call, record_of(0, usage_pb2.OUTCOME_FAILED, input_tokens=7))
    wrong = call_of(End.REFUSED, plan=Plan(Way.STREAM, "chat", "Why?", 16, valid=False), status="401 key_invalid")
    assert found(wrong) == ""
    assert "was not to be admitted" in found(wrong, nothing)


def test_a_right_call_is_not_told_that_it_was_wrong() -> None:
    """A fault of ours is not answered with a 4xx that blames the caller."""
    assert "blamed" in found(call_of(End.REFUSED, status="404 model_not_callable"))
    assert "blamed" in found(call_of(End.REFUSED, status="NOT_FOUND MODEL_NOT_CALLABLE"))


def test_a_cut_call_bills_no_more_than_its_client_received() -> None:
    """Exactly its pieces where the text is ASCII; nothing of an answer that never came; bytes bound other text."""
    assert found(call_of(End.CUT, pieces=5), record_of(5)) == ""
    assert "heard 4 tokens" in found(call_of(End.CUT, pieces=4), record_of(5))
    assert "heard 0 tokens" in found(call_of(End.CUT, way=Way.WHOLE), record_of(1))
    assert found(call_of(End.CUT, pieces=2, text="a海"), record_of(4)) == ""


def test_a_broken_call_bills_no_more_than_the_engine_made() -> None:
    """The token log bounds it; where an engine died with it, what was asked for does."""
    left = call_of(End.LEFT, pieces=5)
    assert found(left, record_of(5, usage_pb2.OUTCOME_CANCELLED)) == ""
    assert "the engine made 5" in found(left, record_of(6, usage_pb2.OUTCOME_CANCELLED))
    assert "the engine made 0" in found(left, record_of(5, usage_pb2.OUTCOME_CANCELLED), engines={})
    lost = Fault("triton", KILLED_S, KILLED_MS, engine_lost=True)
    assert found(left, record_of(16, usage_pb2.OUTCOME_CANCELLED), engines={}, fault=lost) == ""


def test_a_broken_call_bills_what_came_before_the_last_interval() -> None:
    """A crash may lose the journal's last interval, and nothing else loses anything."""
    assert "heard 5 pieces" in found(call_of(End.CUT, pieces=5), record_of(4))
    at_last = [1.0, 1.0, 1.0, 1.0, KILLED_S - 0.01]
    assert found(call_of(End.CUT, pieces=5, piece_times_s=at_last), record_of(4)) == ""
    late = call_of(End.LEFT, pieces=5, piece_times_s=at_last)
    assert "heard 5 pieces" in found(late, record_of(4, usage_pb2.OUTCOME_CANCELLED))
    assert "has no record" in found(call_of(End.CUT, pieces=1))


def test_only_faults_in_the_life_of_a_call_excuse_it() -> None:
    """Of several kills one that met the call counts: not one before it was made, and none after it was over."""
    at_last = [1.0, 1.0, 1.0, 1.0, KILLED_S - 0.01]
    call = call_of(End.CUT, pieces=5, piece_times_s=at_last, ended_s=KILLED_S + 1)
    earlier, met, later = (Fault("triton", at_s, 0, engine_lost=True) for at_s in (-5.0, KILLED_S, KILLED_S + 60))
    assert check_calls([call], ledger_of(record_of(4)), made(5), [earlier, met, later]) == []
    assert "heard 5 pieces" in check_calls([call], ledger_of(record_of(4)), made(5), [earlier, later])[0]
    assert check_calls([call], ledger_of(record_of(5)), {}, [earlier, met, later]) == []
    assert "the engine made 0" in check_calls([call], ledger_of(record_of(5)), {}, [earlier, later])[0]


def test_a_line_is_the_sum_of_its_records_at_its_rate() -> None:
    """Another sum, another amount, another total."""
    record = record_of(5, usage_pb2.OUTCOME_COMPLETED, input_tokens=0, price_version="list@1/sku", deployment_uid="d")
    rate = money_pb2.Rate(meter=money_pb2.METER_OUTPUT_TOKENS, amount="0.30", per=1_000_000, currency="USD")

    def line(quantity: int, amount: str) -> billing_pb2.BillLine:
        return billing_pb2.BillLine(deployment_uid="d", rate=rate, quantity=quantity, amount=amount)

    assert check_bill(ledger_of(record, lines=[line(5, "0.000002")], total="0.000002")) == []
    assert "records sum to 5, lines to 6" in check_bill(ledger_of(record, lines=[line(6, "0.000002")]))[0]
    assert "its rate makes 0.000002" in check_bill(ledger_of(record, lines=[line(5, "0.000001")]))[0]
    assert "total" in check_bill(ledger_of(record, lines=[line(5, "0.000002")], total="0.000003"))[0]


def lives_found(core_ms: int, *, fault: Fault = FAULT, exited_ms: int | None = 5000) -> str:
    """What is found of an instance of 2 cores that was allocated at 0 and is billed this."""
    life = Life(UID, "llamacpp", 2, 0, started=True, exited_ms=exited_ms)
    window = billing_pb2.LineEvent(instance_uid=UID, quantity=core_ms)
    ledger = ledger_of(windows=[window] if core_ms else [])
    return "\n".join(check_lives({UID: life}, {UID: DEPLOYMENT}, DEPLOYMENT, ledger, [fault]))


def test_an_instance_is_billed_for_its_life() -> None:
    """To within 100 ms a core; not at all is too little, and one without an end is not proved."""
    assert lives_found(10_000) == lives_found(10_200) == lives_found(9_800) == ""
    assert "is billed 10201" in lives_found(10_201)
    assert "is billed 0" in lives_found(0)
    assert "no end" in lives_found(10_000, exited_ms=None)


def test_an_instance_whose_keeper_was_killed_is_billed_to_its_last_beat() -> None:
    """Never beyond the kill, and at most one beat less."""
    killed = Fault("keeper", KILLED_S, at_ms=5500, keepers=frozenset({UID}))
    assert lives_found(11_000, fault=killed) == lives_found(8_800, fault=killed) == ""
    assert "is billed 11001" in lives_found(11_001, fault=killed)
    assert "is billed 8799" in lives_found(8_799, fault=killed)


def test_an_instance_that_deploy_does_not_know_is_found() -> None:
    """It runs, and nobody pays for it."""
    life = Life(UID, "llamacpp", 1, 0, started=True, exited_ms=None)
    assert "does not know it" in check_lives({UID: life}, {}, DEPLOYMENT, ledger_of(), [FAULT])[0]


# What cut calls cost


def test_tokens_of_cut_calls_are_stated() -> None:
    """Those of other calls are not, nor where the engine died before it told what it had made."""
    left = call_of(End.LEFT, pieces=3)
    ledger = ledger_of(record_of(5, usage_pb2.OUTCOME_CANCELLED))
    assert CutTokens.of([left], ledger, made(6)) == CutTokens(heard=3, billed=5, made=6)
    assert CutTokens.of([left], ledger, {}) == CutTokens()
    assert CutTokens.of([call_of(End.COMPLETED, pieces=3)], ledger, made(6)) == CutTokens()
