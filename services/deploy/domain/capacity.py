"""Whether the platform has room: what is promised counts, not what runs yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.deploy.domain.errors import CapacityExceeded

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Promise:
    """What one deployment or pool may count on."""

    # Instances it wants, and those of it that still live.
    wanted: int
    living: int
    # Of each of its instances.
    memory_bytes: int

    @property
    def instances(self) -> int:
        """The larger of what it wants and what of it lives."""
        return max(self.wanted, self.living)


@dataclass(frozen=True, slots=True)
class Room:
    """What all instances of the platform together may be."""

    instances_max: int
    memory_bytes_max: int


def check_room(promises: Mapping[str, Promise], room: Room, owner_uid: str, count: int, memory_bytes: int) -> None:
    """Refuse a size of a deployment or pool that the platform has no room for.

    Args:
        promises: What is promised already, by the uid of the deployment or pool.
        owner_uid: Which of them asks; it may be new.

    Raises:
        CapacityExceeded: naming what is promised, what is wanted and what is allowed.
    """
    own = promises.get(owner_uid, Promise(0, 0, memory_bytes))
    more = max(count, own.living) - own.instances
    if more <= 0:
        return
    instances = sum(promise.instances for promise in promises.values())
    if instances + more > room.instances_max:
        raise CapacityExceeded(
            f"{instances} instances run or are wanted and {more} more are asked for; {room.instances_max} are allowed on "
            "this platform: scale another deployment down, or raise MODELYARD_DEPLOY_INSTANCES_MAX"
        )
    used = sum(promise.instances * promise.memory_bytes for promise in promises.values())
    if used + more * memory_bytes > room.memory_bytes_max:
        raise CapacityExceeded(
            f"instances hold {used / _GIB:.1f} GiB and {more * memory_bytes / _GIB:.1f} GiB more are asked for; "
            f"{room.memory_bytes_max / _GIB:.1f} GiB are allowed on this platform: scale another deployment down, or "
            "raise MODELYARD_DEPLOY_INSTANCES_MEMORY_BYTES_MAX"
        )
