"""Time that never goes back while a process lives."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """Where a service takes time from."""

    def now(self) -> datetime:
        """Aware UTC."""
        ...

    def now_ms(self) -> int:
        """UTC milliseconds since 1970."""
        ...


class SystemClock:
    """Wall time read once, then CLOCK_BOOTTIME: a stepped wall clock does not move it, and suspended time counts."""

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        boottime_ns: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    ) -> None:
        self._boottime_ns = boottime_ns
        self._offset_ns = wall_ns() - boottime_ns()

    def now(self) -> datetime:
        return _EPOCH + timedelta(microseconds=(self._offset_ns + self._boottime_ns()) // 1000)

    def now_ms(self) -> int:
        return (self._offset_ns + self._boottime_ns()) // 1_000_000


def ms_from_time(moment: datetime) -> int:
    """Whole UTC milliseconds of an aware moment, rounded down."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def time_from_ms(milliseconds: int) -> datetime:
    """Aware UTC moment of whole milliseconds since 1970."""
    return _EPOCH + timedelta(milliseconds=milliseconds)
