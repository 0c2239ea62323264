"""Reading the ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal

from sqlalchemy import and_, func, or_, select, text
from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.database import ChassisTables, Database
from services.billing.domain.bill import LineKey, Sum
from services.billing.domain.meters import Meter
from services.billing.domain.prices import OfferKind, Price
from services.billing.domain.usage import UsageFact
from services.billing.storage.ledger import table
from services.billing.storage.tables import (
    InstanceRow,
    JournalRow,
    PeriodRow,
    PriceRow,
    QuarantineRow,
    QuoteRow,
    RollupRow,
    SeenDeploymentRow,
    UsageRow,
    WindowRow,
)

_PRICE, _QUOTE, _USAGE, _WINDOW = table(PriceRow), table(QuoteRow), table(UsageRow), table(WindowRow)
_ROLLUP, _INSTANCE, _JOURNAL, _QUARANTINE = (
    table(RollupRow),
    table(InstanceRow),
    table(JournalRow),
    table(QuarantineRow),
)
_SEEN, _PERIOD = table(SeenDeploymentRow), table(PeriodRow)
# Ids follow the time of admission, and records are posted soon after.
NEWEST_RECORDS = 1000
METER_COLUMNS = {
    Meter.INPUT_TOKENS: _USAGE.c.input_tokens,
    Meter.OUTPUT_TOKENS: _USAGE.c.output_tokens,
    Meter.REQUESTS: _USAGE.c.requests,
    Meter.AUDIO_MILLISECONDS: _USAGE.c.audio_milliseconds,
    Meter.IMAGES: _USAGE.c.images,
}


@asynccontextmanager
async def snapshot(database: Database) -> AsyncIterator[AsyncSession]:
    """Read only; all reads of the block see one state, on PostgreSQL too."""
    async with database.reader() as session:
        if not database.is_sqlite:
            await session.execute(text("set transaction isolation level repeatable read"))
        yield session


def price_from_row(row: PriceRow) -> Price:
    """A stored price as a value."""
    return Price(
        price_version=row.price_version,
        resource=row.resource,
        kind=OfferKind(row.kind),
        currency=row.currency,
        amounts={Meter(int(meter)): Decimal(digits) for meter, digits in row.amounts.items()},
        vcpus=row.vcpus,
        effective_time=row.effective_time,
        source=row.source,
    )


def fact_from_row(row: UsageRow) -> UsageFact:
    """A stored record as inference sent it."""
    counted = (
        (Meter.INPUT_TOKENS, row.input_tokens),
        (Meter.OUTPUT_TOKENS, row.output_tokens),
        (Meter.REQUESTS, row.requests),
        (Meter.AUDIO_MILLISECONDS, row.audio_milliseconds),
        (Meter.IMAGES, row.images),
    )
    return UsageFact(
        id=row.id,
        journal_id=row.journal_id,
        journal_seq=row.journal_seq,
        project_uid=row.project_uid,
        endpoint_uid=row.endpoint_uid,
        deployment_uid=row.deployment_uid,
        model_version=row.model_version,
        key_id=row.key_id,
        price_version=row.price_version,
        quote=row.quote,
        outcome=row.outcome,
        occur_time=row.occur_time,
        quantities=tuple((int(meter), value) for meter, value in counted if value is not None),
        request_id=row.request_id,
        traceparent=row.traceparent,
    )


async def prices(session: AsyncSession, resource: str = "") -> list[Price]:
    """All prices, or those of one resource; newest first."""
    query = select(PriceRow).order_by(_PRICE.c.effective_time.desc(), _PRICE.c.price_version)
    if resource:
        query = query.where(_PRICE.c.resource == resource)
    return [price_from_row(row) for row in (await session.execute(query)).scalars()]


async def prices_by_version(session: AsyncSession, versions: Sequence[str]) -> dict[str, Price]:
    """Prices by their version."""
    query = select(PriceRow).where(_PRICE.c.price_version.in_(versions))
    return {row.price_version: price_from_row(row) for row in (await session.execute(query)).scalars()}


async def quote(session: AsyncSession, project_uid: str, uid: str) -> QuoteRow | None:
    """One quote of one project."""
    query = select(QuoteRow).where(_QUOTE.c.uid == uid, _QUOTE.c.project_uid == project_uid)
    return (await session.execute(query)).scalar_one_or_none()


async def quotes(session: AsyncSession, project_uid: str, before_uid: str, limit: int) -> list[QuoteRow]:
    """Quotes of a project, newest first, older than one (empty for the newest)."""
    query = select(QuoteRow).where(_QUOTE.c.project_uid == project_uid).order_by(_QUOTE.c.uid.desc()).limit(limit)
    if before_uid:
        query = query.where(_QUOTE.c.uid < before_uid)
    return list((await session.execute(query)).scalars())


async def rollup_sums(session: AsyncSession, project_uid: str, period: str) -> dict[LineKey, Sum]:
    """What is posted, by line."""
    query = select(RollupRow).where(_ROLLUP.c.project_uid == project_uid, _ROLLUP.c.period == period)
    return {
        LineKey(row.deployment_uid, row.model_version, Meter(row.meter), row.price_version, row.key_id): Sum(
            row.quantity, 0, row.record_count
        )
        for row in (await session.execute(query)).scalars()
    }


async def closed_periods(session: AsyncSession) -> set[str]:
    """Every month that is closed."""
    query = select(_PERIOD.c.period).where(_PERIOD.c.closed.is_(True))
    return set((await session.execute(query)).scalars())


async def unfinished_instances(session: AsyncSession, project_uid: str) -> list[InstanceRow]:
    """Instances whose life has a part that is not posted yet."""
    query = select(InstanceRow).where(
        _INSTANCE.c.project_uid == project_uid,
        _INSTANCE.c.allocate_ms.is_not(None),
        or_(
            _INSTANCE.c.release_ms.is_(None),
            _INSTANCE.c.open_from_ms.is_(None),
            _INSTANCE.c.open_from_ms < _INSTANCE.c.release_ms,
        ),
    )
    return list((await session.execute(query)).scalars())


async def instances(session: AsyncSession, project_uid: str) -> list[InstanceRow]:
    """Every instance of a project that was allocated."""
    query = select(InstanceRow).where(_INSTANCE.c.project_uid == project_uid, _INSTANCE.c.allocate_ms.is_not(None))
    return list((await session.execute(query)).scalars())


async def deployment_names(session: AsyncSession, uids: Sequence[str]) -> dict[str, str]:
    """Resource names of deployments as they were first seen."""
    query = select(_SEEN.c.deployment_uid, _SEEN.c.deployment).where(_SEEN.c.deployment_uid.in_(uids))
    return {row.deployment_uid: row.deployment for row in await session.execute(query)}


async def usage_page(
    session: AsyncSession, project_uid: str, *, before_id: str, limit: int, key_id: str, deployment_uid: str
) -> list[UsageRow]:
    """Records of a project, newest first: ids begin with the time of admission."""
    query = select(UsageRow).where(_USAGE.c.project_uid == project_uid).order_by(_USAGE.c.id.desc()).limit(limit)
    for column, wanted in ((_USAGE.c.key_id, key_id), (_USAGE.c.deployment_uid, deployment_uid)):
        if wanted:
            query = query.where(column == wanted)
    if before_id:
        query = query.where(_USAGE.c.id < before_id)
    return list((await session.execute(query)).scalars())


async def line_usage(
    session: AsyncSession, project_uid: str, period: str, key: LineKey, *, after_id: str, limit: int
) -> list[UsageRow]:
    """Records that a line of calls sums, oldest first."""
    query = (
        select(UsageRow)
        .where(
            _USAGE.c.project_uid == project_uid,
            _USAGE.c.period == period,
            _USAGE.c.deployment_uid == key.deployment_uid,
            _USAGE.c.model_version == key.model_version,
            _USAGE.c.price_version == key.price_version,
            _USAGE.c.key_id == key.key_id,
            METER_COLUMNS[key.meter] > 0,
            _USAGE.c.id > after_id,
        )
        .order_by(_USAGE.c.id)
        .limit(limit)
    )
    return list((await session.execute(query)).scalars())


async def line_windows(
    session: AsyncSession, project_uid: str, period: str, key: LineKey, *, after: tuple[int, str], limit: int
) -> list[WindowRow]:
    """Posted windows that a core-hour line sums, oldest first, after (start, id)."""
    query = (
        select(WindowRow)
        .where(
            _WINDOW.c.project_uid == project_uid,
            _WINDOW.c.period == period,
            _WINDOW.c.deployment_uid == key.deployment_uid,
            _WINDOW.c.model_version == key.model_version,
            _WINDOW.c.price_version == key.price_version,
            or_(_WINDOW.c.start_ms > after[0], and_(_WINDOW.c.start_ms == after[0], _WINDOW.c.id > after[1])),
        )
        .order_by(_WINDOW.c.start_ms, _WINDOW.c.id)
        .limit(limit)
    )
    return list((await session.execute(query)).scalars())


async def record_sums(session: AsyncSession, project_uid: str, period: str) -> dict[LineKey, Sum]:
    """The same sums as the rollups, from the records and windows themselves."""
    sums: dict[LineKey, Sum] = {}
    for meter, column in METER_COLUMNS.items():
        grouping = (_USAGE.c.deployment_uid, _USAGE.c.model_version, _USAGE.c.price_version, _USAGE.c.key_id)
        query = (
            select(*grouping, func.sum(column).label("quantity"), func.count().label("records"))
            .where(_USAGE.c.project_uid == project_uid, _USAGE.c.period == period, column > 0)
            .group_by(*grouping)
        )
        for row in await session.execute(query):
            key = LineKey(row.deployment_uid, row.model_version, meter, row.price_version, row.key_id)
            sums[key] = Sum(int(row.quantity), 0, row.records)
    by_window = (_WINDOW.c.deployment_uid, _WINDOW.c.model_version, _WINDOW.c.price_version)
    query = (
        select(*by_window, func.sum(_WINDOW.c.core_ms).label("quantity"), func.count().label("records"))
        .where(_WINDOW.c.project_uid == project_uid, _WINDOW.c.period == period)
        .group_by(*by_window)
    )
    for row in await session.execute(query):
        key = LineKey(row.deployment_uid, row.model_version, Meter.CORE_MILLISECONDS, row.price_version, "")
        sums[key] = Sum(int(row.quantity), 0, row.records)
    return sums


async def window_sums_by_instance(session: AsyncSession, project_uid: str) -> dict[str, int]:
    """Posted core-milliseconds by instance, over all periods."""
    query = (
        select(_WINDOW.c.instance_uid, func.sum(_WINDOW.c.core_ms).label("core_ms"))
        .where(_WINDOW.c.project_uid == project_uid)
        .group_by(_WINDOW.c.instance_uid)
    )
    return {row.instance_uid: int(row.core_ms) for row in await session.execute(query)}


async def record_count(session: AsyncSession, project_uid: str, period: str) -> int:
    """Usage records of a project in a period, those at zero included."""
    query = (
        select(func.count()).select_from(_USAGE).where(_USAGE.c.project_uid == project_uid, _USAGE.c.period == period)
    )
    return int((await session.execute(query)).scalar_one())


async def journal_gaps(session: AsyncSession, project_uid: str) -> list[tuple[str, int, int]]:
    """Journals of a project's records with something missing: (journal id, committed, newest sequence)."""
    newest = (
        select(_USAGE.c.journal_id, func.max(_USAGE.c.journal_seq).label("newest"))
        .where(_USAGE.c.project_uid == project_uid)
        .group_by(_USAGE.c.journal_id)
        .subquery()
    )
    query = (
        select(newest.c.journal_id, newest.c.newest, _JOURNAL.c.committed_seq)
        .join(_JOURNAL, _JOURNAL.c.journal_id == newest.c.journal_id)
        .where(_JOURNAL.c.committed_seq < newest.c.newest)
    )
    return [(row.journal_id, row.committed_seq, row.newest) for row in await session.execute(query)]


async def quarantined(session: AsyncSession, project_uid: str) -> list[QuarantineRow]:
    """Records of a project that were not billed, with why."""
    query = select(QuarantineRow).where(_QUARANTINE.c.project_uid == project_uid).order_by(_QUARANTINE.c.record_id)
    return list((await session.execute(query)).scalars())


async def newest_instant(session: AsyncSession, tables: ChassisTables) -> datetime | None:
    """The newest moment this service wrote down: when it posted, quoted or took an event."""
    newest_ids = select(_USAGE.c.record_time).order_by(_USAGE.c.id.desc()).limit(NEWEST_RECORDS).subquery()
    moments = [
        (await session.execute(query)).scalar_one_or_none()
        for query in (
            select(func.max(newest_ids.c.record_time)),
            select(_QUOTE.c.create_time).order_by(_QUOTE.c.uid.desc()).limit(1),
            select(func.max(tables.inbox.c.effect_time)),
        )
    ]
    return max((moment for moment in moments if moment is not None), default=None)
