"""Instance lives cut into hourly windows. All times are UTC milliseconds; end is exclusive."""

from __future__ import annotations

from dataclasses import dataclass

from chassis.ids import derived_uid

HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Life:
    """What is known of one instance: allocated, seen alive through, released (None while it lives).

    It never ended before it was last seen, nor before it was allocated: so facts in any order make one life.
    """

    instance_uid: str
    vcpus: int
    allocate_ms: int
    through_ms: int
    release_ms: int | None

    @property
    def end_ms(self) -> int:
        """Until when it is known to have lived."""
        return max(self.allocate_ms, self.through_ms, self.release_ms or 0)


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a life within one UTC hour; `id` is the same whoever cuts it."""

    id: str
    start_ms: int
    end_ms: int
    core_ms: int
    closed: bool


def cut(life: Life, from_ms: int | None = None) -> list[Window]:
    """Windows of a life from `from_ms` (a window start; None for all), in order.

    A window is closed, and posted once, when it lies wholly before what was seen or the instance was released; the last
    one of a living instance stays open. Together they cover the life exactly.
    """
    windows = []
    start = life.allocate_ms if from_ms is None else from_ms
    while start < life.end_ms:
        hour_end = (start // HOUR_MS + 1) * HOUR_MS
        end = min(hour_end, life.end_ms)
        windows.append(
            Window(
                id=derived_uid("instance-window", life.instance_uid, str(start)),
                start_ms=start,
                end_ms=end,
                core_ms=life.vcpus * (end - start),
                closed=end == hour_end or life.release_ms is not None,
            )
        )
        start = end
    return windows
