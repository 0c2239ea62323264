"""A platform for tests of deploy."""

from __future__ import annotations

from pathlib import Path

import pytest_asyncio

from tests.conftest import DatabaseFactory
from tests.integration.deploy.build import Platform, platform_with_project


@pytest_asyncio.fixture
async def platform(make_database: DatabaseFactory, tmp_path: Path) -> Platform:
    """A migrated database with one project and instances in memory."""
    return await platform_with_project(make_database, tmp_path / "weights")
