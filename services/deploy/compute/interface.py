"""What deploy asks of a place where instances run."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol


class InstanceState(Enum):
    """Where an instance is in its life. It is billed from its start to its exit, whatever the state in between."""

    STARTING = "STARTING"  # no answers yet, or none for now because Triton starts again
    READY = "READY"  # the model answered its last canary
    FAILED = "FAILED"  # ended by itself: it could not run or kept breaking
    EXITED = "EXITED"  # ended because it was told to, or its keeper or machine died

    @property
    def ended(self) -> bool:
        return self in (InstanceState.FAILED, InstanceState.EXITED)


@dataclass(frozen=True)
class InstanceSpec:
    """What to run. Two launches of one `instance_uid` are the same launch.

    Attributes:
        instance_uid: Immutable id, never reused.
        engine: Folder in `engines/`.
        model_name: Name under which Triton serves the model.
        artifacts: Artifact file name to its path on this machine.
        parameters: Engine parameters by name.
        vcpus: Cores, >= 1.
        memory_bytes: Memory of the whole instance.
    """

    instance_uid: str
    engine: str
    model_name: str
    artifacts: dict[str, str]
    parameters: dict[str, str]
    vcpus: int
    memory_bytes: int


@dataclass(frozen=True)
class InstanceView:
    """What is known of an instance now. Times are Unix milliseconds, UTC.

    Attributes:
        instance_uid: The spec's id.
        state: Where it is in its life.
        address: `host:port` of its Triton's gRPC, empty while there is none; a restarted Triton may move.
        started_at_ms: When it was allocated.
        exited_at_ms: When it was released; None while it lives.
        detail: Why it is in this state, one sentence, possibly empty.
        limits: "enforced: ..." and, or, "not enforced: ...", with the reason.
        handle: What the provider knows it by, such as process ids; for people, not for programs.
    """

    instance_uid: str
    state: InstanceState
    address: str
    started_at_ms: int
    exited_at_ms: int | None
    detail: str
    limits: str
    handle: dict[str, str] = field(default_factory=dict)


class LaunchRefused(Exception):
    """The spec cannot run here, now or ever; the text says why and what to change."""


class ComputeProvider(Protocol):
    """A place where instances run. Every method may be called again after a crash of the caller."""

    async def launch(self, spec: InstanceSpec) -> None:
        """Start an instance; once it returns, `list` shows it. Launching a uid again changes nothing.

        An instance that ended stays ended: a new life needs a new uid.

        Raises:
            LaunchRefused: nothing was started.
        """
        ...

    async def terminate(self, instance_uid: str) -> int | None:
        """End an instance and wait until nothing of it is left.

        Returns:
            When it was released, Unix milliseconds; None when it never started.
        """
        ...

    async def list(self) -> list[InstanceView]:
        """Every instance started here and not forgotten, ended ones too, oldest first."""
        ...

    def watch(self) -> AsyncIterator[InstanceView]:
        """Every instance as it is, then each one again whenever it changes, for ever."""
        ...

    async def logs(self, instance_uid: str, lines: int) -> builtins.list[str]:
        """The last lines its engine wrote, oldest first; empty when it is unknown."""
        ...

    async def forget(self, instance_uid: str) -> None:
        """Drop an ended instance's records and logs; its release has been recorded elsewhere.

        Raises:
            ValueError: the instance lives.
        """
        ...
