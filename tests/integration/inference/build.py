"""Journals and records for tests, and conditions to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from modelyard.type.v1 import money_pb2, usage_pb2

from chassis.ids import new_uid
from services.inference.domain.usage import Counts, Outcome
from services.inference.journal.journal import Entry, Journal, JournalLimits
from tests.infra.journal import frames

PROJECT_UID = "00000000-0000-7000-8000-000000000001"


async def until(holds: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait for a condition."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the condition did not hold within {timeout_s} s")
        await asyncio.sleep(0.005)


def a_record() -> usage_pb2.UsageRecord:
    record = usage_pb2.UsageRecord(
        id=new_uid(),
        project_uid=PROJECT_UID,
        endpoint_uid=PROJECT_UID,
        deployment_uid=PROJECT_UID,
        model_version="publishers/p/models/m/versions/1",
        key_id="key",
    )
    record.occur_time.GetCurrentTime()
    return record


@contextlib.asynccontextmanager
async def running_journal(folder: Path, **limits: float) -> AsyncIterator[Journal]:
    journal = Journal(folder, JournalLimits(**{"commit_interval_s": 0.01, "retry_s": 0.01, **limits}))  # type: ignore[arg-type]
    journal.start()
    try:
        yield journal
    finally:
        # In a thread: a journal that waits for its disk must not hold the loop that answers it.
        await asyncio.to_thread(journal.close)


async def opened(journal: Journal) -> Entry:
    entry = journal.open(a_record())
    await entry.opened
    return entry


async def settle_calls(journal: Journal, count: int, outcome: Outcome = Outcome.COMPLETED) -> list[str]:
    """Calls that came and went; their record ids, in the order of their sequences."""
    entries = [journal.open(a_record()) for _ in range(count)]
    await asyncio.gather(*(entry.settle(outcome, Counts(10, 2)) for entry in entries))
    return [entry.record.id for entry in entries]


def steps(folder: Path, step: str) -> list[int]:
    """Sequences of the frames of one kind."""
    return [getattr(frame, step).journal_seq for frame in frames(folder) if frame.WhichOneof("step") == step]


def quantity(record: usage_pb2.UsageRecord, meter: money_pb2.Meter.ValueType) -> int:
    return next((one.value for one in record.quantities if one.meter == meter), 0)


def counts(record: usage_pb2.UsageRecord) -> Counts:
    return Counts(quantity(record, money_pb2.METER_INPUT_TOKENS), quantity(record, money_pb2.METER_OUTPUT_TOKENS))
