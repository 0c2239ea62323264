"""Post usage: records, rollups, events and watermark in one transaction, each record once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from modelyard.billing.v1 import billing_pb2

from chassis.clock import Clock
from chassis.database import Database, UnitOfWork
from chassis.telemetry import get_logger, span
from chassis.telemetry.metrics import meter
from services.billing.domain.errors import RecordInvalid
from services.billing.domain.meters import Meter
from services.billing.domain.periods import period_of, posting_period
from services.billing.domain.usage import UsageFact, check_usage, digest, is_uid
from services.billing.events.published import (
    posted_to_proto,
    usage_conflicted,
    usage_posted,
    usage_to_proto,
    watermark,
)
from services.billing.storage import ledger

log = get_logger(__name__)

# Links of one span; further records of a batch are in the ledger all the same.
LINKS_MAX = 128
_POSTED = meter.create_counter(
    "modelyard.billing.usage.posted", unit="{record}", description="Usage records that entered the ledger."
)
_QUARANTINED = meter.create_counter(
    "modelyard.billing.usage.quarantined", unit="{record}", description="Usage records that were set aside."
)
_COLUMNS = {
    Meter.INPUT_TOKENS: "input_tokens",
    Meter.OUTPUT_TOKENS: "output_tokens",
    Meter.REQUESTS: "requests",
    Meter.AUDIO_MILLISECONDS: "audio_milliseconds",
    Meter.IMAGES: "images",
}


def announce_counters() -> None:
    """Say zero at the start: a rate over a counter sees the first record only when it saw the counter before."""
    _POSTED.add(0)
    _QUARANTINED.add(0)


async def post_usage(database: Database, clock: Clock, facts: Sequence[UsageFact]) -> int:
    """Record what is new, ignore duplicates, quarantine conflicts; return how many records were added.

    The same records in any order, any number of times, in any batches give the same ledger. Records are locked in id
    order, so two posters of overlapping batches do not deadlock.
    """
    # Linked, not nested: a batch serves many calls, and each has its own trace.
    links = [fact.traceparent for fact in facts if fact.traceparent][:LINKS_MAX]
    with span("post usage", {"modelyard.usage.records": len(facts)}, links=links):
        return await _post_usage(database, clock.now(), facts)


async def _post_usage(database: Database, now: datetime, facts: Sequence[UsageFact]) -> int:
    async with database.unit_of_work() as uow:
        valid: dict[str, UsageFact] = {}
        digests: dict[str, str] = {}
        again: list[UsageFact] = []
        for fact in sorted(facts, key=lambda fact: fact.id):
            try:
                check_usage(fact)
            except RecordInvalid as invalid:
                await _quarantine(uow, database, fact, billed_digest="", why=invalid.message, now=now)
                continue
            if fact.id in valid:
                again.append(fact)
                continue
            valid[fact.id] = fact
            digests[fact.id] = digest(fact)
        periods = await _periods(uow, database, valid.values(), now)
        rows = [usage_values(fact, digests[fact.id], *periods[fact.id], now) for fact in valid.values()]
        added = await ledger.add_usage(uow, database, rows) if rows else set()
        await _quarantine_conflicts(
            uow, database, [fact for fact in valid.values() if fact.id not in added] + again, now
        )
        await _roll_up(uow, database, [valid[record_id] for record_id in sorted(added)], periods)
        _announce(uow, [valid[record_id] for record_id in sorted(added)], periods, now)
        for journal_id in sorted(filter(is_uid, {fact.journal_id for fact in facts})):
            # Said also where it did not move: who sends a record again has not heard that it is committed.
            uow.project(watermark(journal_id, await ledger.advance_journal(uow, database, journal_id)))
    _POSTED.add(len(added))
    return len(added)


async def _periods(
    uow: UnitOfWork, database: Database, facts: Iterable[UsageFact], now: datetime
) -> dict[str, tuple[str, bool]]:
    occurred = {fact.id: period_of(fact.occur_time) for fact in facts}
    closed = await ledger.closed_periods(uow, database, occurred.values(), now)
    return {record_id: posting_period(period, period_of(now), closed) for record_id, period in occurred.items()}


def usage_values(fact: UsageFact, record_digest: str, period: str, correction: bool, now: datetime) -> dict[str, Any]:
    """A record as its row holds it."""
    counted = dict(fact.quantities)
    return {
        "id": fact.id,
        "journal_id": fact.journal_id,
        "journal_seq": fact.journal_seq,
        "project_uid": fact.project_uid,
        "endpoint_uid": fact.endpoint_uid,
        "deployment_uid": fact.deployment_uid,
        "model_version": fact.model_version,
        "key_id": fact.key_id,
        "price_version": fact.price_version,
        "quote": fact.quote,
        "outcome": fact.outcome,
        "occur_time": fact.occur_time,
        "request_id": fact.request_id,
        "traceparent": fact.traceparent,
        "digest": record_digest,
        "record_time": now,
        "period": period,
        "correction": correction,
        **{column: counted.get(meter) for meter, column in _COLUMNS.items()},
    }


async def _quarantine_conflicts(uow: UnitOfWork, database: Database, known: Sequence[UsageFact], now: datetime) -> None:
    """Compare what came again with what was billed: the same content is a duplicate and free."""
    if not known:
        return
    billed = await ledger.billed_digests(uow, [fact.id for fact in known])
    for fact in sorted(known, key=lambda fact: fact.id):
        if digest(fact) != billed[fact.id]:
            await _quarantine(
                uow, database, fact, billed_digest=billed[fact.id], why="the same id came with other content", now=now
            )


async def _quarantine(
    uow: UnitOfWork, database: Database, fact: UsageFact, *, billed_digest: str, why: str, now: datetime
) -> None:
    quarantined_digest = digest(fact)
    content = usage_to_proto(fact).SerializeToString(deterministic=True)
    first = await ledger.quarantine(
        uow,
        database,
        fact,
        quarantined_digest=quarantined_digest,
        billed_digest=billed_digest,
        why=why,
        content=content,
        now=now,
    )
    if first:
        _QUARANTINED.add(1)
        log.error("usage record was quarantined", record=fact.id[:64], journal=fact.journal_id[:64], why=why)
        uow.emit(usage_conflicted(fact, billed_digest=billed_digest, quarantined_digest=quarantined_digest, now=now))


async def _roll_up(
    uow: UnitOfWork, database: Database, added: Sequence[UsageFact], periods: dict[str, tuple[str, bool]]
) -> None:
    sums: dict[ledger.RollupKey, tuple[int, int]] = {}
    for fact in added:
        for counted, value in fact.quantities:
            if value == 0:
                continue
            key = ledger.rollup_key(fact, periods[fact.id][0], counted)
            quantity, count = sums.get(key, (0, 0))
            sums[key] = (quantity + value, count + 1)
    await ledger.add_to_rollups(uow, database, sums)


def _announce(uow: UnitOfWork, added: Sequence[UsageFact], periods: dict[str, tuple[str, bool]], now: datetime) -> None:
    by_project: dict[str, list[billing_pb2.PostedUsage]] = {}
    for fact in added:
        period, correction = periods[fact.id]
        by_project.setdefault(fact.project_uid, []).append(
            posted_to_proto(fact, record_time=now, period=period, correction=correction)
        )
    for project_uid, posted in sorted(by_project.items()):
        for event in usage_posted(project_uid, posted, now):
            uow.emit(event)
