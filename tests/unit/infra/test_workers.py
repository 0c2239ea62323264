"""What goes to one worker together."""

from __future__ import annotations

from pathlib import Path

from tests.infra.workers import APART, FIRST, SHARING, group_of

ROOT = Path(__file__).parents[3]


def test_every_path_that_is_named_is_there() -> None:
    """A file that was moved must not lose its place silently."""
    assert [path for path in (*SHARING, *APART, *FIRST) if not (ROOT / path).exists()] == []


def test_a_folder_that_shares_a_platform_is_one_group() -> None:
    assert group_of("tests/contract/test_access.py") == group_of("tests/contract/test_paging.py") == "tests/contract"


def test_a_file_with_a_platform_of_its_own_is_another() -> None:
    assert group_of("tests/e2e/test_demo.py") == "tests/e2e/test_demo.py"


def test_files_of_other_folders_are_spread() -> None:
    assert group_of("tests/integration/billing/test_consuming.py") == "tests/integration/billing/test_consuming.py"
