"""What every command pays for before it does anything."""

from __future__ import annotations

import subprocess
import sys

# Each takes a tenth of a second or more, or tens of megabytes, and few commands need one.
HEAVY = {"alembic", "huggingface_hub", "numpy", "openai", "sqlalchemy", "tritonclient", "xllamacpp"}


def test_commands_start_without_what_few_of_them_need() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import cli.main, sys; print(*{name.partition('.')[0] for name in sys.modules})"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert HEAVY & set(loaded.stdout.split()) == set()
