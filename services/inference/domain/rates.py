"""How often something may be done."""

from __future__ import annotations


class CallRate:
    """So many calls a minute: a bucket that fills evenly, holds one minute's worth, and is full at first.

    Args:
        per_minute_max: 0 allows any number.
    """

    def __init__(self, per_minute_max: int) -> None:
        self._per_minute_max = per_minute_max
        self._left = float(per_minute_max)
        self._filled_at_s = 0.0

    def take(self, now_s: float) -> float:
        """Seconds until the call may be made; 0 where it may be made now, and is counted.

        Args:
            now_s: Of any clock that does not go back.
        """
        if not self._per_minute_max:
            return 0.0
        per_s = self._per_minute_max / 60
        self._left = min(self._left + (now_s - self._filled_at_s) * per_s, float(self._per_minute_max))
        self._filled_at_s = now_s
        if self._left < 1:
            return (1 - self._left) / per_s
        self._left -= 1
        return 0.0
