"""Whether a version fits on an instance type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from chassis.errors import Problem
from services.catalog.domain.errors import InstanceTypeNotAllowed, InstanceTypeTooSmall

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Shape:
    """What an instance type has; all zero where no source says it."""

    id: str
    vcpus: int = 0
    gpus: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    # The compute provider that offers it here; empty where none does.
    provider: str = ""

    @property
    def is_known(self) -> bool:
        """A source says what it has."""
        return self.vcpus > 0 and self.memory_bytes > 0


@dataclass(frozen=True, slots=True)
class Needs:
    """Least hardware of one instance; 0 where nothing is asked of it."""

    vcpus: int = 0
    gpus: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    # Ids of the only types its publisher allows; empty allows any.
    allowed: tuple[str, ...] = ()

    def with_at_least(self, other: Needs) -> Needs:
        """What meets both; the allow-list is this one's."""
        return Needs(
            max(self.vcpus, other.vcpus),
            max(self.gpus, other.gpus),
            max(self.memory_bytes, other.memory_bytes),
            max(self.disk_bytes, other.disk_bytes),
            self.allowed,
        )


def misfits(version: str, needs: Needs, shape: Shape) -> Iterator[Problem]:
    """Why a version does not fit on a type; nothing where it does. More of anything never fits less.

    A type whose shape nobody knows is not compared: `check_offered` says that of it.
    """
    if needs.allowed and shape.id not in needs.allowed:
        yield InstanceTypeNotAllowed(
            f"the publisher of {version} allows {_listed(needs.allowed)}, not {shape.id}", field="instance_type"
        )
    lacks = [
        f"{what}: {wanted}, and it has {has}"
        for what, wanted, has, is_short in (
            ("cores", f"{needs.vcpus}", f"{shape.vcpus}", shape.vcpus < needs.vcpus),
            ("accelerators", f"{needs.gpus}", f"{shape.gpus}", shape.gpus < needs.gpus),
            ("memory", _size(needs.memory_bytes), _size(shape.memory_bytes), shape.memory_bytes < needs.memory_bytes),
            ("local disk", _size(needs.disk_bytes), _size(shape.disk_bytes), shape.disk_bytes < needs.disk_bytes),
        )
        if is_short
    ]
    if lacks and shape.is_known:
        yield InstanceTypeTooSmall(
            f"{version} needs more than {shape.id} has ({'; '.join(lacks)}); `modelyard models fit` shows the types that "
            "fit",
            field="instance_type",
        )


def _size(count: int) -> str:
    return f"{count / _GIB:g} GiB"


def _listed(names: tuple[str, ...], shown_max: int = 5) -> str:
    more = len(names) - shown_max
    return ", ".join(names[:shown_max]) + (f" and {more} more" if more > 0 else "")
