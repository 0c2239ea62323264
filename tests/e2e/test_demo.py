"""`make demo`: the seven steps, on real parts."""

from __future__ import annotations

import re
from pathlib import Path

from tests.infra.up import Up


def test_the_demo_does_all_seven_steps_and_leaves_nothing_running(tmp_path: Path) -> None:
    """It proves the bill from three witnesses; every step is announced with its time."""
    up = Up(tmp_path / "home")
    said = up.run("demo").stdout
    assert re.findall(r"step (\d) done in [0-9.]+ s", said) == list("1234567")
    assert re.search(r"instance +answers", said)
    assert len(re.findall(r" equal *$", said, re.MULTILINE)) == 4
    assert up.processes() == []
