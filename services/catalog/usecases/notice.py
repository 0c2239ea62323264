"""The notice that is promised before a version ends, and overrides of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from modelyard.catalog.v1 import lifecycle_pb2

from chassis.clock import Clock
from chassis.database import Database, UnitOfWork
from chassis.errors import InvalidArgument
from chassis.ids import new_uid
from chassis.rpc.idempotency import answered_before, remember_answer
from services.catalog.domain.checks import short_model
from services.catalog.domain.lifecycle import Dates, Notice, short_notice
from services.catalog.storage.convert import override_to_proto
from services.catalog.storage.queries.lifecycle import overrides_of
from services.catalog.storage.tables import NoticeOverrideRow, VersionRow
from services.catalog.usecases.find import find_version
from services.catalog.usecases.lifecycle import dates_of, day_of

REASON_LENGTH_MIN, REASON_LENGTH_MAX = 10, 1000


async def refused_for_notice(
    uow: UnitOfWork, wanted: Mapping[str, Dates], known: Mapping[str, VersionRow], now: datetime, notice: Notice
) -> dict[str, str]:
    """Why new dates of stored versions are refused, by the version's name; an override that is taken up is marked.

    Args:
        wanted: The dates that a source states, by the version's name; of a version that is not stored they are as
            published.
    """
    short = {
        name: reasons
        for name, dates in wanted.items()
        if (row := known.get(name)) is not None
        and (reasons := list(short_notice(dates_of(row), dates, now.date(), notice)))
    }
    if not short:
        return {}
    overrides = await overrides_of(uow.session, sorted(short))
    for name in list(short):
        taken_up = [
            row for row in overrides if row.model_version == name and _override_dates(row) == _iso(wanted[name])
        ]
        for override in taken_up:
            override.use_time = override.use_time or now
            uow.session.add(override)
        if taken_up:
            del short[name]
    return {name: _refusal(name, wanted[name], reasons) for name, reasons in short.items()}


def _refusal(name: str, dates: Dates, reasons: list[str]) -> str:
    model, _, version = name.partition("/versions/")
    options = "".join(
        f" --{option} {day}"
        for option, day in zip(("legacy", "deprecation", "retirement"), _iso(dates), strict=True)
        if day
    )
    return (
        f"version {name!r} keeps the dates it has: {'; '.join(reasons)}; an admin may decide otherwise with `modelyard "
        f"lifecycle override {short_model(model)}/versions/{version}{options} --reason '…'`"
    )


async def create_override(
    database: Database, clock: Clock, principal: str, request: lifecycle_pb2.CreateNoticeOverrideRequest
) -> lifecycle_pb2.NoticeOverride:
    """Let a version have exactly these dates, and keep who decided it, when and why.

    Raises:
        ModelNotFound: no such version.
        InvalidArgument: malformed or unordered dates, or no reason.
    """
    dates = _checked_dates(request.dates)
    if not REASON_LENGTH_MIN <= len(request.reason.strip()) <= REASON_LENGTH_MAX:
        raise InvalidArgument(
            f"reason has {len(request.reason.strip())} characters; {REASON_LENGTH_MIN} to {REASON_LENGTH_MAX} are "
            "allowed: others read it when they ask why the version ended so soon",
            field="reason",
        )
    async with database.unit_of_work() as uow:
        before = await answered_before(uow, database, principal, request, lifecycle_pb2.NoticeOverride)
        if before is not None:
            return before
        version = (await find_version(uow.session, request.model_version)).version
        legacy, deprecation, retirement = _iso(dates)
        row = NoticeOverrideRow(
            uid=new_uid(),
            model_version=version.name,
            legacy_date=legacy,
            deprecation_date=deprecation,
            retirement_date=retirement,
            before_legacy_date=version.legacy_date,
            before_deprecation_date=version.deprecation_date,
            before_retirement_date=version.retirement_date,
            reason=request.reason.strip(),
            principal=principal,
            create_time=clock.now(),
            use_time=None,
        )
        uow.session.add(row)
        answer = override_to_proto(row)
        await remember_answer(uow, database, clock, principal, request, answer)
        return answer


def _checked_dates(said: lifecycle_pb2.LifecycleDates) -> Dates:
    try:
        dates = Dates(False, day_of(said.legacy), day_of(said.deprecation), day_of(said.retirement))
    except ValueError:
        raise InvalidArgument("dates are written YYYY-MM-DD, each empty where none is set", field="dates") from None
    days = [day for day in (dates.legacy, dates.deprecation, dates.retirement) if day is not None]
    if not days or days != sorted(days):
        raise InvalidArgument(
            "dates name at least one day, and come in the order legacy, deprecation, retirement", field="dates"
        )
    return dates


def _override_dates(row: NoticeOverrideRow) -> tuple[str, str, str]:
    return row.legacy_date, row.deprecation_date, row.retirement_date


def _iso(dates: Dates) -> tuple[str, str, str]:
    legacy, deprecation, retirement = (
        day.isoformat() if day else "" for day in (dates.legacy, dates.deprecation, dates.retirement)
    )
    return legacy, deprecation, retirement
