"""Writing the ledger: records, windows and rollups, in one transaction with what they imply."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Executable, Table, bindparam, func, select
from sqlalchemy.dialects import postgresql, sqlite

from chassis.database import Database, UnitOfWork
from services.billing.domain.meters import Meter
from services.billing.domain.periods import next_period, period_of
from services.billing.domain.usage import SEQUENCE_MAX, UsageFact, contiguous, is_uid
from services.billing.storage.tables import (
    InstanceRow,
    JournalRow,
    PeriodRow,
    QuarantineRow,
    RollupRow,
    SeenDeploymentRow,
    SeenProjectRow,
    UsageRow,
    WindowRow,
)

RollupKey = tuple[str, str, str, str, int, str, str]
# Sequences of a journal looked at in one query.
JOURNAL_SEQS_MAX = 2_000
# Databases take about 32,000 parameters in one statement.
IDS_PER_QUERY_MAX = 1000


def table(row_class: Any) -> Table:
    """The SQLAlchemy table of a row class."""
    return row_class.__table__  # type: ignore[no-any-return]


_USAGE, _WINDOW, _ROLLUP = table(UsageRow), table(WindowRow), table(RollupRow)
_QUARANTINE, _JOURNAL, _PERIOD = table(QuarantineRow), table(JournalRow), table(PeriodRow)
_SEEN_PROJECT, _SEEN_DEPLOYMENT = table(SeenProjectRow), table(SeenDeploymentRow)


async def closed_periods(uow: UnitOfWork, database: Database, occurred: Iterable[str], now: datetime) -> set[str]:
    """Which of the periods that records of these may be posted into are closed.

    Their rows are locked, shared, until the transaction ends: closing waits.
    """
    running = period_of(now)
    wanted = sorted({*occurred, running, next_period(running)})
    query = select(_PERIOD.c.period, _PERIOD.c.closed).where(_PERIOD.c.period.in_(wanted)).order_by(_PERIOD.c.period)
    if not database.is_sqlite:
        query = query.with_for_update(read=True)
    known = (await uow.session.execute(query)).all()
    if len(known) < len(wanted):
        await database.insert_ignoring(
            uow, _PERIOD, [{"period": period, "closed": False} for period in wanted], returning=[_PERIOD.c.period]
        )
        known = (await uow.session.execute(query)).all()
    return {row.period for row in known if row.closed}


async def add_usage(uow: UnitOfWork, database: Database, rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Insert records that are not there yet; return the ids that were added."""
    if database.is_sqlite:
        added = await database.insert_ignoring(uow, _USAGE, rows, returning=[_USAGE.c.id])
        return {row.id for row in added}
    return {row.id for row in await uow.session.execute(_usage_arrays(tuple(rows[0])), _arrays(rows))}


async def billed_digests(uow: UnitOfWork, ids: Sequence[str]) -> dict[str, str]:
    """The digest that was billed, by record id."""
    digests: dict[str, str] = {}
    for start in range(0, len(ids), IDS_PER_QUERY_MAX):
        query = select(_USAGE.c.id, _USAGE.c.digest).where(_USAGE.c.id.in_(ids[start : start + IDS_PER_QUERY_MAX]))
        digests.update({row.id: row.digest for row in await uow.session.execute(query)})
    return digests


async def quarantine(
    uow: UnitOfWork,
    database: Database,
    fact: UsageFact,
    *,
    quarantined_digest: str,
    billed_digest: str,
    why: str,
    content: bytes,
    now: datetime,
) -> bool:
    """Keep a record that is not billed; False when the same one was kept before."""
    row = {
        # A record may be here because these are nothing a column takes; `content` has them as they came.
        "record_id": fact.id if is_uid(fact.id) else "",
        "quarantined_digest": quarantined_digest,
        "billed_digest": billed_digest,
        "project_uid": fact.project_uid if is_uid(fact.project_uid) else "",
        "journal_id": fact.journal_id if is_uid(fact.journal_id) else "",
        "journal_seq": min(fact.journal_seq, SEQUENCE_MAX),
        "why": why,
        "content": content,
        "record_time": now,
    }
    return bool(await database.insert_ignoring(uow, _QUARANTINE, [row], returning=[_QUARANTINE.c.record_id]))


async def add_windows(uow: UnitOfWork, database: Database, rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Insert windows that are not posted yet; return the ids that were added."""
    added = await database.insert_ignoring(uow, _WINDOW, rows, returning=[_WINDOW.c.id])
    return {row.id for row in added}


async def add_to_rollups(uow: UnitOfWork, database: Database, sums: Mapping[RollupKey, tuple[int, int]]) -> None:
    """Add (quantity, record count) to each line, in key order so that two writers never wait for each other."""
    rows = [
        {
            "project_uid": key[0],
            "period": key[1],
            "deployment_uid": key[2],
            "model_version": key[3],
            "meter": key[4],
            "price_version": key[5],
            "key_id": key[6],
            "quantity": sums[key][0],
            "record_count": sums[key][1],
        }
        for key in sorted(sums)
    ]
    if rows:
        statement = _add_to_rollups(tuple(rows[0]), database.is_sqlite)
        await uow.session.execute(statement, rows if database.is_sqlite else _arrays(rows))


# Built once: SQLAlchemy takes longer to build a statement of many columns than to run it for a few rows.
@cache
def _usage_arrays(names: tuple[str, ...]) -> Executable:
    return _insert_arrays(_USAGE, names).on_conflict_do_nothing().returning(_USAGE.c.id)


@cache
def _add_to_rollups(names: tuple[str, ...], is_sqlite: bool) -> Executable:
    insert = sqlite.insert(_ROLLUP) if is_sqlite else _insert_arrays(_ROLLUP, names)
    return insert.on_conflict_do_update(
        index_elements=list(_ROLLUP.primary_key.columns),
        set_={
            "quantity": _ROLLUP.c.quantity + insert.excluded.quantity,
            "record_count": _ROLLUP.c.record_count + insert.excluded.record_count,
        },
    )


def _insert_arrays(rows: Table, names: Sequence[str]) -> postgresql.Insert:
    """PostgreSQL takes many rows several times faster as one array a column than as a statement or a list of values a row.

    Rows are inserted, and locked, in the order of the arrays.
    """
    arrays = func.unnest(*(bindparam(name, type_=postgresql.ARRAY(rows.c[name].type)) for name in names))
    unnested = arrays.table_valued(*names).render_derived()
    return postgresql.insert(rows).from_select(list(names), select(*(unnested.c[name] for name in names)))


def _arrays(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def rollup_key(fact: UsageFact, period: str, meter: int) -> RollupKey:
    """The line a record's meter is summed in."""
    return (
        fact.project_uid,
        period,
        fact.deployment_uid,
        fact.model_version,
        meter,
        fact.price_version,
        fact.key_id,
    )


def window_rollup_key(instance: InstanceRow, period: str) -> RollupKey:
    """The line an instance's windows are summed in; no key called it."""
    return (
        instance.project_uid,
        period,
        instance.deployment_uid,
        instance.model_version,
        int(Meter.CORE_MILLISECONDS),
        instance.price_version,
        "",
    )


async def advance_journal(uow: UnitOfWork, database: Database, journal_id: str) -> int:
    """Move a journal's watermark over what is there without a gap; where it stands now."""
    query = database.locking(select(JournalRow).where(_JOURNAL.c.journal_id == journal_id))
    row: JournalRow | None = (await uow.session.execute(query)).scalar_one_or_none()
    if row is None:
        await database.insert_ignoring(
            uow, _JOURNAL, [{"journal_id": journal_id, "committed_seq": 0}], returning=[_JOURNAL.c.journal_id]
        )
        row = (await uow.session.execute(query)).scalar_one()
    while True:
        sequences = await _sequences_after(uow, journal_id, row.committed_seq)
        committed = contiguous(row.committed_seq, sequences)
        if committed == row.committed_seq:
            break
        row.committed_seq = committed
        if len(sequences) < JOURNAL_SEQS_MAX:
            break
    uow.session.add(row)
    return row.committed_seq


async def _sequences_after(uow: UnitOfWork, journal_id: str, committed: int) -> list[int]:
    """The next sequences that are there, recorded or quarantined, ascending; a gap costs no more than one page."""
    found: list[int] = []
    for rows in (_USAGE, _QUARANTINE):
        query = (
            select(rows.c.journal_seq)
            .where(rows.c.journal_id == journal_id, rows.c.journal_seq > committed)
            .order_by(rows.c.journal_seq)
            .limit(JOURNAL_SEQS_MAX)
        )
        found += (await uow.session.execute(query)).scalars()
    return sorted(found)


async def load_instance(uow: UnitOfWork, database: Database, instance_uid: str) -> InstanceRow:
    """One instance's row, locked, made when this is the first fact about it."""
    instances = table(InstanceRow)
    await database.insert_ignoring(
        uow,
        instances,
        [InstanceRow(instance_uid=instance_uid).model_dump()],
        returning=[instances.c.instance_uid],
    )
    query = database.locking(select(InstanceRow).where(instances.c.instance_uid == instance_uid))
    return (await uow.session.execute(query)).scalar_one()


async def see_project(uow: UnitOfWork, database: Database, project_uid: str, project: str) -> None:
    """Remember a project's name."""
    row = {"project_uid": project_uid, "project": project}
    await database.insert_ignoring(uow, _SEEN_PROJECT, [row], returning=[_SEEN_PROJECT.c.project_uid])


async def see_deployment(uow: UnitOfWork, database: Database, deployment_uid: str, deployment: str) -> None:
    """Remember a deployment's name as it was first seen."""
    row = {"deployment_uid": deployment_uid, "deployment": deployment}
    await database.insert_ignoring(uow, _SEEN_DEPLOYMENT, [row], returning=[_SEEN_DEPLOYMENT.c.deployment_uid])
