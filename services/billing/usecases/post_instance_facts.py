"""Post instance facts: the life becomes hourly windows, each once, whatever the order of the facts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from chassis.clock import Clock, ms_from_time, time_from_ms
from chassis.database import Database, UnitOfWork
from services.billing.domain.errors import InstanceFactInvalid
from services.billing.domain.periods import period_of, posting_period
from services.billing.domain.usage import OCCUR_TIME_MIN, is_uid
from services.billing.domain.windows import Life, cut
from services.billing.storage import ledger
from services.billing.storage.tables import InstanceRow

# How far deploy's clock may be ahead of ours.
AHEAD_MAX = timedelta(days=1)
TEXT_LENGTH_MAX = 512


@dataclass(frozen=True, slots=True)
class Allocation:
    """What deploy says when an instance is rented."""

    instance_uid: str
    project_uid: str
    endpoint_uid: str
    deployment_uid: str
    deployment: str
    model_version: str
    instance_type: str
    vcpus: int
    price_version: str
    quote: str
    allocate_time: datetime


async def post_allocation(uow: UnitOfWork, database: Database, clock: Clock, fact: Allocation) -> None:
    """An instance was rented.

    Raises:
        InstanceFactInvalid: it was allocated before with other content, or holds what cannot be true.
    """
    if fact.vcpus < 1:
        raise InstanceFactInvalid(f"instance {fact.instance_uid} has {fact.vcpus} cores; at least 1 is allowed")
    for name in ("project_uid", "deployment_uid"):
        _check_uid(fact.instance_uid, name, getattr(fact, name))
    for name in ("endpoint_uid", "deployment", "model_version", "instance_type", "price_version", "quote"):
        text = getattr(fact, name)
        if len(text) > TEXT_LENGTH_MAX or not text.isprintable():
            raise InstanceFactInvalid(
                f"instance {fact.instance_uid}: {name} {text[:64]!r} has {len(text)} characters; up to "
                f"{TEXT_LENGTH_MAX} printable ones are allowed",
                field=name,
            )
    said = {
        "project_uid": fact.project_uid,
        "endpoint_uid": fact.endpoint_uid,
        "deployment_uid": fact.deployment_uid,
        "model_version": fact.model_version,
        "instance_type": fact.instance_type,
        "vcpus": fact.vcpus,
        "price_version": fact.price_version,
        "quote": fact.quote,
        "allocate_ms": _fact_ms(clock, fact.instance_uid, "allocated", fact.allocate_time),
    }
    row = await ledger.load_instance(uow, database, fact.instance_uid)
    for field, value in said.items():
        if row.allocate_ms is not None and getattr(row, field) != value:
            raise InstanceFactInvalid(
                f"instance {fact.instance_uid} was allocated with {field} {getattr(row, field)!r}; now {value!r} is said",
                field=field,
            )
        setattr(row, field, value)
    await ledger.see_deployment(uow, database, fact.deployment_uid, fact.deployment)
    await _post_windows(uow, database, clock, row)


async def post_observation(
    uow: UnitOfWork, database: Database, clock: Clock, instance_uid: str, through_time: datetime
) -> None:
    """An instance was seen alive; an older sighting changes nothing.

    Raises:
        InstanceFactInvalid: at no time that can be true.
    """
    through_ms = _fact_ms(clock, instance_uid, "seen", through_time)
    row = await ledger.load_instance(uow, database, instance_uid)
    row.through_ms = max(row.through_ms, through_ms)
    await _post_windows(uow, database, clock, row)


async def post_release(
    uow: UnitOfWork, database: Database, clock: Clock, instance_uid: str, release_time: datetime
) -> None:
    """An instance ended.

    Raises:
        InstanceFactInvalid: another end was said before, or at no time that can be true.
    """
    release_ms = _fact_ms(clock, instance_uid, "released", release_time)
    row = await ledger.load_instance(uow, database, instance_uid)
    if row.release_ms is not None and row.release_ms != release_ms:
        raise InstanceFactInvalid(f"instance {instance_uid} was released at {row.release_ms}; now {release_ms} is said")
    row.release_ms = release_ms
    await _post_windows(uow, database, clock, row)


def _check_uid(instance_uid: str, name: str, value: str) -> None:
    if not is_uid(value):
        raise InstanceFactInvalid(f"instance {instance_uid[:64]!r}: {name} {value[:64]!r} is not a UUID", field=name)


def _fact_ms(clock: Clock, instance_uid: str, what: str, moment: datetime) -> int:
    """A fact's time; refused where it would bill decades: one that is missing, or far ahead of now."""
    _check_uid(instance_uid, "instance_uid", instance_uid)
    if not OCCUR_TIME_MIN <= moment <= clock.now() + AHEAD_MAX:
        raise InstanceFactInvalid(
            f"instance {instance_uid} was {what} at {moment.isoformat()}; {OCCUR_TIME_MIN.year} to one day from now is "
            "allowed"
        )
    return ms_from_time(moment)


def life_of(row: InstanceRow) -> Life | None:
    """The life as it is known; None until the allocation is."""
    if row.allocate_ms is None:
        return None
    return Life(row.instance_uid, row.vcpus, row.allocate_ms, row.through_ms, row.release_ms)


async def _post_windows(uow: UnitOfWork, database: Database, clock: Clock, row: InstanceRow) -> None:
    """Post every window that is closed and was not; the open one stays for the read."""
    uow.session.add(row)
    life = life_of(row)
    if life is None:
        return
    closed_windows = [window for window in cut(life, row.open_from_ms) if window.closed]
    if not closed_windows:
        return
    now = clock.now()
    occurred = {window.id: period_of(time_from_ms(window.start_ms)) for window in closed_windows}
    closed = await ledger.closed_periods(uow, database, occurred.values(), now)
    periods = {key: posting_period(period, period_of(now), closed) for key, period in occurred.items()}
    added = await ledger.add_windows(
        uow,
        database,
        [
            {
                "id": window.id,
                "instance_uid": row.instance_uid,
                "project_uid": row.project_uid,
                "deployment_uid": row.deployment_uid,
                "model_version": row.model_version,
                "price_version": row.price_version,
                "start_ms": window.start_ms,
                "end_ms": window.end_ms,
                "core_ms": window.core_ms,
                "record_time": now,
                "period": periods[window.id][0],
                "correction": periods[window.id][1],
            }
            for window in closed_windows
        ],
    )
    sums: dict[ledger.RollupKey, tuple[int, int]] = {}
    for window in closed_windows:
        if window.id in added:
            key = ledger.window_rollup_key(row, periods[window.id][0])
            quantity, count = sums.get(key, (0, 0))
            sums[key] = (quantity + window.core_ms, count + 1)
    await ledger.add_to_rollups(uow, database, sums)
    row.open_from_ms = closed_windows[-1].end_ms
