"""A platform for tests of deploy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.conftest import DatabaseFactory
from tests.integration.deploy.build import Platform, platform_with_project


@pytest_asyncio.fixture
async def platform(make_database: DatabaseFactory, tmp_path: Path) -> AsyncIterator[Platform]:
    """A migrated database with one project and instances in memory; what is under way at the end is given up."""
    made = await platform_with_project(make_database, tmp_path / "weights")
    yield made
    await made.reconciler.close()
