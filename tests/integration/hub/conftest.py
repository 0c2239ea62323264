"""The catalog's database for tests of hubs. What they store is stored by means that other tests try on PostgreSQL too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from chassis.database import Database
from services.catalog.main import MIGRATIONS
from services.catalog.storage.tables import CHASSIS


@pytest_asyncio.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A migrated catalog on SQLite."""
    opened = Database(f"sqlite+aiosqlite:///{tmp_path / 'catalog.db'}", CHASSIS)
    await opened.migrate(MIGRATIONS)
    yield opened
    await opened.dispose()
