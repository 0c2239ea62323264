"""Cores and memory: what is enforced, and what the text says about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.deploy.compute import limits
from services.deploy.compute.limits import choose_cpus, make_limits

GIB = 1024**3


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})


@pytest.mark.usefixtures("four_cores")
def test_the_least_used_cores_are_chosen() -> None:
    assert choose_cpus(1, []) == (0,)
    assert choose_cpus(1, [[0], [1]]) == (2,)
    assert choose_cpus(2, [[0, 1], [2, 3], [0, 1]]) == (2, 3)


@pytest.mark.usefixtures("four_cores")
def test_more_cores_than_there_are_means_all() -> None:
    assert choose_cpus(9, []) == (0, 1, 2, 3)


def test_without_a_cgroup_the_text_says_what_is_looked_at_and_why_the_kernel_does_not_help() -> None:
    made = make_limits("uid", vcpus=2, memory_bytes=GIB, cpus=(0, 1), cgroup_parent=None)
    assert made.cgroup is None
    assert made.text.startswith("enforced: 2 of 2 cores (affinity to 0,1)")
    assert made.text.endswith(
        "not enforced: memory by the kernel, because no cgroup was delegated (setting cgroup_parent)"
    )


def test_missing_cores_are_said() -> None:
    text = make_limits("uid", vcpus=4, memory_bytes=GIB, cpus=(0, 1), cgroup_parent=None).text
    assert "not enforced: 4 cores, because this machine lets us use 2" in text


def test_a_delegated_cgroup_is_used(tmp_path: Path) -> None:
    """The kernel's files, played by plain ones."""
    made = make_limits("uid", vcpus=2, memory_bytes=GIB, cpus=(0, 1), cgroup_parent=tmp_path)
    assert made.cgroup == tmp_path / "modelyard-uid"
    assert (made.cgroup / "memory.max").read_text() == str(GIB)
    assert (made.cgroup / "cpu.max").read_text() == "200000 100000"
    assert "not enforced" not in made.text


def test_a_cgroup_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    made = make_limits("uid", vcpus=1, memory_bytes=GIB, cpus=(0,), cgroup_parent=tmp_path / "none")
    assert made.cgroup is None
    assert "cannot be written (No such file or directory)" in made.text
