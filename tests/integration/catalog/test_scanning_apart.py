"""A file is looked at in a process of its own: what breaks it is a refusal and nothing more."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path

import pytest

from services.catalog.artifacts.scanning.process import scan_apart
from services.catalog.artifacts.scanning.refusal import Refusal
from tests.infra.model_files import doubling_model


async def test_it_says_what_the_file_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(doubling_model())
    found = await scan_apart(path, timeout_s=30)
    assert (found.format, found.facts["inputs"][0]["name"]) == ("onnx", "X")


async def test_it_says_why_the_file_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(pickle.dumps(Path))
    with pytest.raises(Refusal, match="would import"):
        await scan_apart(path, timeout_s=30)


async def test_a_file_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    """Five million objects do not fit into what the process may take."""
    path = tmp_path / "file"
    path.write_bytes(b"[" + b'{"a":1},' * 5_000_000 + b"0]")
    with pytest.raises(Refusal, match="more memory than it may"):
        await scan_apart(path, timeout_s=60)


async def test_a_file_that_takes_too_long_is_refused(tmp_path: Path) -> None:
    """And its process is gone."""
    path = tmp_path / "file"
    path.write_bytes(b"{}")
    with pytest.raises(Refusal, match="took longer than"):
        await scan_apart(path, timeout_s=0.001)


async def test_a_scan_that_is_given_up_leaves_no_process(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"{}")
    scanning = asyncio.ensure_future(scan_apart(path, timeout_s=30))
    await asyncio.sleep(0)
    scanning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await scanning
