"""Time that never goes back: wall time read once at start, plus the machine's running time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from chassis.errors import ClockBehind

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Clock(Protocol):
    """Where services take the time from."""

    def now(self) -> datetime:
        """Aware, UTC, whole microseconds."""
        ...

    def now_ms(self) -> int:
        """Unix milliseconds."""
        ...


class SystemClock:
    """The machine's clock. CLOCK_BOOTTIME runs through suspends and is not stepped by time services.

    Args:
        wall_ns: Unix time in nanoseconds, read once.
        boottime_ns: Nanoseconds since boot, suspends included.
        offset_ns: From boot to the Unix epoch's count, as another process of this boot has it; then the wall is not read.
    """

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        boottime_ns: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        *,
        offset_ns: int | None = None,
    ) -> None:
        self._boottime_ns = boottime_ns
        self.offset_ns = wall_ns() - boottime_ns() if offset_ns is None else offset_ns

    def now(self) -> datetime:
        return time_from_us((self.offset_ns + self._boottime_ns()) // 1_000)

    def now_ms(self) -> int:
        return (self.offset_ns + self._boottime_ns()) // 1_000_000


def check_not_behind(clock: Clock, newest: datetime | None, behind_s_max: float) -> None:
    """Refuse to record time that has been recorded already; for the start of a service.

    Args:
        newest: The newest instant that the service stored; None when it stored none.

    Raises:
        ClockBehind: naming both moments.
    """
    now = clock.now()
    if newest is not None and now < newest - timedelta(seconds=behind_s_max):
        raise ClockBehind(
            f"the wall clock says {now.isoformat()} and the newest stored instant is {newest.isoformat()}; "
            f"more than {behind_s_max:g} s behind is refused: set the clock right and start again"
        )


def time_from_us(time_us: int) -> datetime:
    """The aware UTC instant of Unix microseconds, exact."""
    return _EPOCH + timedelta(microseconds=time_us)


def us_from_time(instant: datetime) -> int:
    """Unix microseconds of an aware instant, exact.

    Raises:
        ValueError: the instant has no time zone.
    """
    if instant.tzinfo is None:
        raise ValueError(f"{instant.isoformat()} has no time zone")
    return (instant - _EPOCH) // _MICROSECOND


def time_from_ms(milliseconds: int) -> datetime:
    """The aware UTC instant of Unix milliseconds."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def ms_from_time(instant: datetime) -> int:
    """Whole Unix milliseconds of an aware instant, rounded down."""
    return us_from_time(instant) // 1_000
