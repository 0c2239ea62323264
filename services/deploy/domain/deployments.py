"""The life of deployments and instances, and what is missing between wanted and observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from services.deploy.domain.errors import InstanceCountInvalid

INSTANCES_PER_DEPLOYMENT_MAX = 50


class DeploymentState(IntEnum):
    """The numbers are those of `modelyard.deploy.v1.DeploymentState`."""

    CREATING = 1
    ACTIVE = 2
    UPDATING = 3
    FAILED = 4
    DELETING = 5
    DELETED = 6


class InstanceState(IntEnum):
    """The numbers are those of `modelyard.deploy.v1.InstanceState`."""

    ALLOCATED = 1
    READY = 2
    UNHEALTHY = 3
    RELEASING = 4
    RELEASED = 5


# What may follow what; a deployment never leaves DELETED.
NEXT_STATES: dict[DeploymentState, frozenset[DeploymentState]] = {
    DeploymentState.CREATING: frozenset(
        {DeploymentState.ACTIVE, DeploymentState.UPDATING, DeploymentState.FAILED, DeploymentState.DELETING}
    ),
    DeploymentState.ACTIVE: frozenset({DeploymentState.UPDATING, DeploymentState.FAILED, DeploymentState.DELETING}),
    DeploymentState.UPDATING: frozenset({DeploymentState.ACTIVE, DeploymentState.FAILED, DeploymentState.DELETING}),
    DeploymentState.FAILED: frozenset({DeploymentState.ACTIVE, DeploymentState.UPDATING, DeploymentState.DELETING}),
    DeploymentState.DELETING: frozenset({DeploymentState.DELETED}),
    DeploymentState.DELETED: frozenset(),
}


def derive_state(
    current: DeploymentState, *, wanted: int, living: int, ready: int, deleting: bool, gave_up: bool
) -> DeploymentState:
    """Where a deployment is, from what is wanted and what is observed.

    Args:
        wanted: Instances it should have (for serverless: 1, of the pool).
        living: Instances that are not released.
        ready: Instances that answer.
        gave_up: Starting failed too often in a row.
    """
    if current is DeploymentState.DELETED:
        return current
    if current is DeploymentState.DELETING:
        return DeploymentState.DELETING if living else DeploymentState.DELETED
    if deleting:
        return DeploymentState.DELETING
    if ready == wanted == living:
        return DeploymentState.ACTIVE
    if ready == 0 and gave_up:
        return DeploymentState.FAILED
    if ready == 0 and current is DeploymentState.CREATING:
        return DeploymentState.CREATING
    return DeploymentState.UPDATING


def check_instance_count(count: int, maximum: int = INSTANCES_PER_DEPLOYMENT_MAX) -> int:
    """A size that one deployment may have.

    Raises:
        InstanceCountInvalid: naming the value and the limit.
    """
    if not 1 <= count <= maximum:
        raise InstanceCountInvalid(f"instance_count {count}; 1 to {maximum} are allowed", field="instance_count")
    return count


@dataclass(frozen=True, slots=True)
class Sizing:
    """What brings the observed size to the wanted one."""

    allocate: int
    release: tuple[str, ...]


def size(living: Sequence[str], wanted: int) -> Sizing:
    """How many to allocate and which to release.

    `living`: instance uids, none of them releasing, those to be kept first.
    """
    if len(living) < wanted:
        return Sizing(wanted - len(living), ())
    # The last come off first: the oldest are warm and hold the longest calls.
    return Sizing(0, tuple(reversed(living[wanted:])))
