"""The demo's proof finds every kind of difference that is planted."""

from __future__ import annotations

from modelyard.billing.v1 import billing_pb2
from modelyard.type.v1 import money_pb2, usage_pb2

from cli.demo.client_log import Call
from cli.demo.witnesses import InstanceLife, compare, differences

LIFE = InstanceLife("instance-1", vcpus=2, allocated_ms=1_000, exited_ms=4_000)


def answered(request_id: str = "r1", *, read: int = 10, made: int = 5) -> Call:
    call = Call(request_id, "chat", serverless=True)
    call.answer(read, made, record_id=f"record-{request_id}")
    return call


def posted(request_id: str = "r1", *, read: int = 10, made: int = 5, record_id: str = "") -> billing_pb2.PostedUsage:
    record = usage_pb2.UsageRecord(id=record_id or f"record-{request_id}", request_id=request_id)
    record.quantities.add(meter=money_pb2.METER_INPUT_TOKENS, value=read)
    record.quantities.add(meter=money_pb2.METER_OUTPUT_TOKENS, value=made)
    return billing_pb2.PostedUsage(record=record)


def bill(*, read: int = 10, made: int = 5, core_ms: int = 6_000) -> billing_pb2.Bill:
    found = billing_pb2.Bill()
    for meter, quantity in (
        (money_pb2.METER_INPUT_TOKENS, read),
        (money_pb2.METER_OUTPUT_TOKENS, made),
        (money_pb2.METER_CORE_MILLISECONDS, core_ms),
    ):
        found.lines.add(quantity=quantity, rate=money_pb2.Rate(meter=meter))
    return found


def test_witnesses_that_agree_have_no_difference() -> None:
    """One call, one record, one life, one bill."""
    assert all(one.agrees for one in compare([answered()], [LIFE], [posted()], bill()))
    assert differences([answered()], [LIFE], [posted()]) == []


def test_a_lost_record_is_found() -> None:
    """A call that was answered and is in no record."""
    assert "has 0 usage records" in differences([answered()], [LIFE], [])[0]


def test_a_doubled_record_is_found() -> None:
    """Two records of one call."""
    twice = [posted(), posted(record_id="record-other")]
    assert any("has 2 usage records" in one for one in differences([answered()], [LIFE], twice))


def test_other_tokens_are_found() -> None:
    """The client saw five tokens, the ledger billed six."""
    assert "5 out" in differences([answered()], [LIFE], [posted(made=6)])[0]


def test_a_record_of_nobody_is_found() -> None:
    """A record that no call of the client explains."""
    assert "belongs to no call" in differences([], [], [posted()])[0]


def test_an_instance_without_an_end_is_found() -> None:
    """Its keeper wrote no exit."""
    endless = InstanceLife("instance-1", 1, 1_000, None)
    assert "no end" in differences([], [endless], [])[0]


def test_core_milliseconds_are_compared_exactly() -> None:
    """One core-millisecond more on the bill than the instance lived."""
    compared = compare([answered()], [LIFE], [posted()], bill(core_ms=6_001))
    assert [one.fact for one in compared if not one.agrees] == ["core-milliseconds"]


def test_managed_calls_add_no_billed_tokens() -> None:
    """Their instances are what is billed; they count as calls."""
    managed = Call("r2", "managed", serverless=False)
    managed.answer(100, 100)
    compared = compare([answered(), managed], [LIFE], [posted(), posted("r2", read=100, made=100)], bill())
    assert all(one.agrees for one in compared)
