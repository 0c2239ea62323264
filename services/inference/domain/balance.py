"""Which deployment and which instance takes a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def choose_by_weight(weights: Sequence[tuple[str, int]], draw: float) -> str | None:
    """The deployment that a draw from [0, 1) falls to; None when no deployment takes traffic."""
    total = sum(weight for _, weight in weights)
    if total <= 0:
        return None
    point = draw * total
    for name, weight in weights:
        if weight > 0 and point < weight:
            return name
        point -= weight
    return next(name for name, weight in reversed(weights) if weight > 0)


def choose_least_loaded(uids: Sequence[str], in_flight: Mapping[str, int], turn: int) -> str:
    """The instance with the fewest calls in flight; equals take turns."""
    offset = turn % len(uids)
    rotated = [*uids[offset:], *uids[:offset]]
    return min(rotated, key=lambda uid: in_flight.get(uid, 0))
