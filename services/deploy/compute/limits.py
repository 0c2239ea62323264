"""How much of the machine an instance may use: cores by affinity, memory by cgroup or by looking."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Limits:
    """What is enforced for one instance.

    Attributes:
        cpus: Cores it may run on, by number.
        memory_bytes: Most memory of all its processes together.
        cgroup: Its own cgroup, or None.
        text: "enforced: ...; not enforced: ...", for people.
    """

    cpus: tuple[int, ...]
    memory_bytes: int
    cgroup: Path | None
    text: str


def choose_cpus(vcpus: int, in_use: Iterable[Iterable[int]]) -> tuple[int, ...]:
    """The least used cores of this machine, at most `vcpus`.

    Args:
        vcpus: Cores wanted, >= 1.
        in_use: Cores of each instance that lives.
    """
    load = dict.fromkeys(sorted(os.sched_getaffinity(0)), 0)
    for cpus in in_use:
        for cpu in cpus:
            if cpu in load:
                load[cpu] += 1
    chosen = sorted(load, key=lambda cpu: (load[cpu], cpu))[:vcpus]
    return tuple(sorted(chosen))


def make_limits(
    instance_uid: str, *, vcpus: int, memory_bytes: int, cpus: tuple[int, ...], cgroup_parent: Path | None
) -> Limits:
    """Prepare what the kernel allows; never needs root.

    Memory is never limited by RLIMIT_AS: mapped weights count there though they need no memory.

    Args:
        instance_uid: Name of the cgroup.
        vcpus: Cores of the instance type.
        memory_bytes: Memory of the instance type.
        cpus: Cores chosen for it.
        cgroup_parent: A delegated cgroup v2 folder, or None.
    """
    enforced = [f"{len(cpus)} of {vcpus} cores (affinity to {','.join(map(str, cpus))})"]
    missing = []
    if len(cpus) < vcpus:
        missing.append(f"{vcpus} cores, because this machine lets us use {len(cpus)}")
    cgroup, why_not = _make_cgroup(instance_uid, vcpus, memory_bytes, cgroup_parent)
    if cgroup is not None:
        enforced.append(f"{memory_bytes} bytes of memory and {vcpus} cores of time (cgroup {cgroup})")
    else:
        enforced.append(f"{memory_bytes} bytes of memory (looked at by the keeper, Triton starts again above them)")
        missing.append(f"memory by the kernel, because {why_not}")
    text = "enforced: " + ", ".join(enforced)
    if missing:
        text += "; not enforced: " + ", ".join(missing)
    return Limits(cpus, memory_bytes, cgroup, text)


def _make_cgroup(instance_uid: str, vcpus: int, memory_bytes: int, parent: Path | None) -> tuple[Path | None, str]:
    if parent is None:
        return None, "no cgroup was delegated (setting cgroup_parent)"
    cgroup = instance_cgroup(parent, instance_uid)
    period_us = 100_000
    try:
        cgroup.mkdir(exist_ok=True)
        (cgroup / "memory.max").write_text(str(memory_bytes))
        (cgroup / "cpu.max").write_text(f"{vcpus * period_us} {period_us}")
    except OSError as error:
        remove_cgroup(cgroup)
        return None, f"{error.filename} cannot be written ({error.strerror})"
    return cgroup, ""


def instance_cgroup(parent: Path, instance_uid: str) -> Path:
    """Where an instance's cgroup lies."""
    return parent / f"modelyard-{instance_uid}"


def remove_cgroup(cgroup: Path | None) -> None:
    """Remove an empty cgroup; one that is missing or still in use is left alone."""
    if cgroup is not None:
        try:
            cgroup.rmdir()
        except OSError:
            return


def memory_used_bytes(processes: Iterable[psutil.Process]) -> int:
    """Resident memory of processes together; pages they share are counted for each."""
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
