"""How `pytest -n` spreads tests over processes: what stays together, and what begins first.

Not `--dist loadgroup`: pytest 9.2 took away what it stands on, and it now groups nothing, silently (pytest-xdist #1386).
"""

from __future__ import annotations

import os

import pytest
from xdist.scheduler import LoadScopeScheduling

# Most of a test is waiting for processes that start, recover and end, so a core has time for two. With more, platforms
# under load wait for each other; with more workers than this there is nothing left to give them.
WORKERS_PER_CORE = 2
WORKERS_MAX = 8

# Folders whose tests share what their conftest starts for the session, a platform or its instances: they stay together,
# so that it is started once. Tests of any other folder stay together file by file.
SHARING = ("tests/contract", "tests/e2e", "tests/integration/engines", "tests/integration/inference")
# Files there that start a platform of their own.
APART = ("tests/e2e/test_bad_input.py", "tests/e2e/test_demo.py", "tests/e2e/test_telemetry.py")
# What takes longest begins first, or it would run on alone when all else is done.
FIRST = (
    "tests/fault/test_other_faults.py",
    "tests/fault/test_killed_parts.py",
    "tests/e2e/",
    "tests/fault/",
    "tests/integration/",
    "tests/contract/",
)


def worker_count() -> int:
    """How many workers `-n auto` starts."""
    return min(WORKERS_PER_CORE * (os.cpu_count() or 1), WORKERS_MAX)


def group_of(file: str) -> str:
    """What goes to one worker together with a test of this file."""
    folder = file.rpartition("/")[0]
    return folder if folder in SHARING and file not in APART else file


def in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    """Tests in the order in which workers take them."""
    return sorted(items, key=lambda item: _rank(item.nodeid))


def _rank(nodeid: str) -> int:
    return next((rank for rank, path in enumerate(FIRST) if nodeid.startswith(path)), len(FIRST))


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """A worker that has nothing to do takes the next whole group."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.partition("::")[0])
