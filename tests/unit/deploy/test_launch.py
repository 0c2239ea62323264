"""What is told of a pull."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from modelyard.catalog.v1 import catalog_pb2

from services.deploy.usecases.launch import Launcher
from services.deploy.weights.cache import WeightsCache
from services.deploy.weights.interface import WeightsFile
from tests.infra.weights import WeightsInMemory

TOTAL = 98_362_432


class Row:
    uid = "an-instance"


@pytest.mark.parametrize(
    ("received", "said"),
    [(0, "0 of 98"), (45_200_000, "44 of 98"), (TOTAL - 1, "93 of 98")],
)
async def test_progress_is_told_in_steps(tmp_path: Path, received: int, said: str) -> None:
    """A twentieth at a time, since each step is an event."""
    source = WeightsInMemory()
    source.gate.clear()
    file = WeightsFile("v", "model.gguf", "ab" * 32, TOTAL)
    cache = WeightsCache(tmp_path, source)
    (tmp_path / "partial" / file.sha256).touch()
    os.truncate(tmp_path / "partial" / file.sha256, received)
    row: Any = Row()
    provider: Any = None
    launcher = Launcher(provider, cache)
    artifact = catalog_pb2.Artifact(name=file.name, sha256=file.sha256, size_bytes=TOTAL)
    launching = asyncio.ensure_future(
        launcher.launch(row, catalog_pb2.ModelVersion(name="v", artifacts=[artifact]), in_use=())
    )
    await asyncio.sleep(0)
    assert launcher.is_pulling(row.uid)
    assert launcher.progress(row.uid) == f"pulling weights: {said} MB"
    launching.cancel()
    await asyncio.gather(launching, return_exceptions=True)
    assert launcher.progress(row.uid) == ""
