"""What several files of these tests start from."""

from __future__ import annotations

import pytest_asyncio

from services.catalog.storage.tables import CHASSIS, CatalogTable
from tests.conftest import DatabaseFactory
from tests.integration.catalog.syncing import Platform, a_platform


@pytest_asyncio.fixture
async def platform(make_database: DatabaseFactory) -> Platform:
    """Whose one source follows a script."""
    return await a_platform(await make_database(CHASSIS, CatalogTable.metadata))
