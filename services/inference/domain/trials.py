"""How often one member of a project may try models."""

from __future__ import annotations

from collections import OrderedDict, deque

from services.inference.domain.errors import TrialLimitReached

WINDOW_S = 60.0


class TrialLimiter:
    """Counts the tries of the last minute.

    Args:
        per_minute_max: Tries of one member of one project.
        members_max: Members that are remembered; the one that was quiet longest is forgotten first.
    """

    def __init__(self, per_minute_max: int, members_max: int = 10_000) -> None:
        self._per_minute_max = per_minute_max
        self._members_max = members_max
        self._tries: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def take(self, project_uid: str, principal: str, now_s: float) -> None:
        """Count one try.

        Args:
            now_s: A clock that never goes back, seconds.

        Raises:
            TrialLimitReached: with the time until the oldest try of the last minute no longer counts.
        """
        tries = self._tries.setdefault((project_uid, principal), deque())
        self._tries.move_to_end((project_uid, principal))
        while len(self._tries) > self._members_max:
            self._tries.popitem(last=False)
        while tries and now_s - tries[0] >= WINDOW_S:
            tries.popleft()
        if len(tries) >= self._per_minute_max:
            wait_s = WINDOW_S - (now_s - tries[0])
            raise TrialLimitReached(
                f"{len(tries)} tries in the last minute; {self._per_minute_max} are allowed for one member of a project: "
                f"wait {wait_s:.0f} s, or deploy the model",
                retry_after_s=wait_s,
            )
        tries.append(now_s)
