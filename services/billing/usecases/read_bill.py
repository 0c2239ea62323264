"""Read the bill, explain a line, reconcile."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.clock import Clock, ms_from_time, time_from_ms
from chassis.database import Database
from chassis.paging import page_size, page_token_decode, page_token_encode, split_page
from services.billing.domain.bill import Line, LineKey, Sum, charge_line, total
from services.billing.domain.errors import LineNotFound
from services.billing.domain.meters import Meter
from services.billing.domain.periods import check_period, period_of, posting_period
from services.billing.domain.windows import Window, cut
from services.billing.storage import reads
from services.billing.storage.tables import InstanceRow, WindowRow
from services.billing.usecases.post_instance_facts import life_of


@dataclass(frozen=True, slots=True)
class Bill:
    """One project's month."""

    period: str
    lines: list[Line]
    total: Decimal
    currency: str
    unrated: dict[Meter, int]
    deployments: dict[str, str]
    instance_types: dict[str, str]
    as_of: datetime


@dataclass(frozen=True, slots=True)
class LineEvent:
    """One raw event behind a line."""

    record_id: str
    occur_time: datetime
    quantity: int
    outcome: int = 0
    request_id: str = ""
    instance_uid: str = ""
    end_time: datetime | None = None
    open: bool = False


@dataclass(frozen=True, slots=True)
class Explained:
    """A line and one page of its events."""

    bill: Bill
    line: Line
    events: list[LineEvent]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Reconciled:
    """Two sums of the same month, and what differs."""

    record_count: int
    records: dict[Meter, int]
    rollups: dict[Meter, int]
    differences: list[tuple[str, str]]


async def get_bill(database: Database, clock: Clock, project_uid: str, period: str) -> Bill:
    """The bill of a month: posted sums plus the open windows of instances that live, each line rounded once."""
    now = clock.now()
    period = check_period(period, now)
    async with reads.snapshot(database) as session:
        return await _bill(session, now, project_uid, period)


async def _bill(session: AsyncSession, now: datetime, project_uid: str, period: str) -> Bill:
    sums = await reads.rollup_sums(session, project_uid, period)
    for instance, windows in await _open_windows(session, now, project_uid, period):
        key = _line_key(instance)
        posted = sums.get(key, Sum(0, 0, 0))
        sums[key] = Sum(
            posted.posted, posted.open + sum(window.core_ms for window in windows), posted.record_count + len(windows)
        )
    prices = await reads.prices_by_version(session, sorted({key.price_version for key in sums if key.price_version}))
    rated: dict[LineKey, Sum] = {}
    unrated: dict[Meter, int] = {}
    for key, value in sums.items():
        price = prices.get(key.price_version)
        if price is not None and key.meter in price.amounts:
            rated[key] = value
        else:
            unrated[key.meter] = unrated.get(key.meter, 0) + value.quantity
    lines = [charge_line(key, prices[key.price_version].rate(key.meter), value) for key, value in sorted(rated.items())]
    return Bill(
        period=period,
        lines=lines,
        total=total(lines),
        currency=lines[0].rate.currency if lines else "USD",
        unrated=unrated,
        deployments=await reads.deployment_names(session, sorted({key.deployment_uid for key in rated})),
        instance_types={version: price.resource for version, price in prices.items() if price.vcpus},
        as_of=now,
    )


async def _open_windows(
    session: AsyncSession, now: datetime, project_uid: str, period: str
) -> list[tuple[InstanceRow, list[Window]]]:
    """Windows that are not posted yet and will be in this month."""
    closed = await reads.closed_periods(session)
    found = []
    for instance in await reads.unfinished_instances(session, project_uid):
        life = life_of(instance)
        windows = [
            window
            for window in (cut(life, instance.open_from_ms) if life else [])
            if posting_period(period_of(time_from_ms(window.start_ms)), period_of(now), closed)[0] == period
        ]
        if windows:
            found.append((instance, windows))
    return found


def _line_key(instance: InstanceRow) -> LineKey:
    return LineKey(instance.deployment_uid, instance.model_version, Meter.CORE_MILLISECONDS, instance.price_version, "")


async def explain_line(
    database: Database, clock: Clock, project_uid: str, period: str, line_id: str, size: int, token: str
) -> Explained:
    """A line's events, oldest first; over all pages their quantities sum to the line's.

    Raises:
        LineNotFound: the bill of this month has no such line.
    """
    now = clock.now()
    period = check_period(period, now)
    limit = page_size(size)
    scope = f"ExplainLine/{project_uid}/{period}/{line_id}"
    async with reads.snapshot(database) as session:
        bill = await _bill(session, now, project_uid, period)
        line = next((line for line in bill.lines if line.key.line_id == line_id), None)
        if line is None:
            raise LineNotFound(
                f"the bill of {period} has no line {line_id[:64]!r}; `modelyard bill` shows the lines", field="line"
            )
        if line.key.meter is Meter.CORE_MILLISECONDS:
            events, token = await _window_events(session, now, project_uid, period, line.key, limit, scope, token)
        else:
            events, token = await _usage_events(session, project_uid, period, line.key, limit, scope, token)
    return Explained(bill, line, events, token)


async def _usage_events(
    session: AsyncSession, project_uid: str, period: str, key: LineKey, limit: int, scope: str, token: str
) -> tuple[list[LineEvent], str]:
    (after_id,) = page_token_decode(token, scope, ("",))
    found = await reads.line_usage(session, project_uid, period, key, after_id=after_id, limit=limit + 1)
    rows, more = split_page(found, limit)
    events = [
        LineEvent(
            record_id=row.id,
            occur_time=row.occur_time,
            quantity=reads.fact_from_row(row).quantity(key.meter),
            outcome=row.outcome,
            request_id=row.request_id,
        )
        for row in rows
    ]
    return events, page_token_encode(scope, [rows[-1].id]) if more else ""


async def _window_events(
    session: AsyncSession,
    now: datetime,
    project_uid: str,
    period: str,
    key: LineKey,
    limit: int,
    scope: str,
    token: str,
) -> tuple[list[LineEvent], str]:
    """Posted windows by start, then the open one of every instance."""
    shown_open, start_ms, window_id = page_token_decode(token, scope, (0, 0, ""))
    events: list[LineEvent] = []
    if not shown_open:
        rows = await reads.line_windows(session, project_uid, period, key, after=(start_ms, window_id), limit=limit + 1)
        events += [_window_event(row.instance_uid, row, is_open=False) for row in rows]
    if len(events) <= limit:
        still_open = [
            (window, instance.instance_uid)
            for instance, windows in await _open_windows(session, now, project_uid, period)
            if _line_key(instance) == key
            for window in windows
            if not shown_open or (window.start_ms, window.id) > (start_ms, window_id)
        ]
        still_open.sort(key=lambda found: (found[0].start_ms, found[0].id))
        events += [_window_event(instance_uid, window, is_open=True) for window, instance_uid in still_open]
    page, more = split_page(events, limit)
    if not more:
        return list(page), ""
    last = page[-1]
    return list(page), page_token_encode(scope, [int(last.open), ms_from_time(last.occur_time), last.record_id])


def _window_event(instance_uid: str, window: Window | WindowRow, *, is_open: bool) -> LineEvent:
    return LineEvent(
        record_id=window.id,
        occur_time=time_from_ms(window.start_ms),
        quantity=window.core_ms,
        instance_uid=instance_uid,
        end_time=time_from_ms(window.end_ms),
        open=is_open,
    )


async def reconcile(database: Database, clock: Clock, project_uid: str, period: str) -> Reconciled:
    """Compare the rollups with the records, the windows with the lives, and look for gaps, conflicts and lost prices."""
    period = check_period(period, clock.now())
    async with reads.snapshot(database) as session:
        rollups = await reads.rollup_sums(session, project_uid, period)
        records = await reads.record_sums(session, project_uid, period)
        differences = [
            (
                "rollup",
                f"line {key.line_id} ({key.meter.name}): records sum to {_said(records.get(key))}, "
                f"the rollup says {_said(rollups.get(key))}",
            )
            for key in sorted(rollups.keys() | records.keys())
            if rollups.get(key) != records.get(key)
        ]
        versions = sorted({key.price_version for key in rollups if key.price_version})
        known = await reads.prices_by_version(session, versions)
        differences += [
            ("price", f"price version {version!r} is in no price list; what was used under it is not rated")
            for version in versions
            if version not in known
        ]
        posted = await reads.window_sums_by_instance(session, project_uid)
        for instance in await reads.instances(session, project_uid):
            life = life_of(instance)
            lived = sum(window.core_ms for window in cut(life) if window.closed) if life else 0
            if lived != posted.get(instance.instance_uid, 0):
                differences.append(
                    (
                        "window",
                        f"instance {instance.instance_uid}: {lived} core-milliseconds lived in closed windows, "
                        f"{posted.get(instance.instance_uid, 0)} posted",
                    )
                )
        for journal_id, committed, newest in await reads.journal_gaps(session, project_uid):
            differences.append(
                ("journal-gap", f"journal {journal_id}: committed to {committed} without a gap, newest is {newest}")
            )
        for row in await reads.quarantined(session, project_uid):
            differences.append(("conflict", f"record {row.record_id} was quarantined: {row.why}"))
        count = await reads.record_count(session, project_uid, period)
    return Reconciled(count, _by_meter(records), _by_meter(rollups), differences)


def _by_meter(sums: dict[LineKey, Sum]) -> dict[Meter, int]:
    by_meter: dict[Meter, int] = {}
    for key, value in sums.items():
        by_meter[key.meter] = by_meter.get(key.meter, 0) + value.posted
    return dict(sorted(by_meter.items()))


def _said(value: Sum | None) -> str:
    return "nothing" if value is None else f"{value.posted} in {value.record_count} records"
