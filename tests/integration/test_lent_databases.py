"""The databases that tests are lent: nothing of the test before is in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import func, select

from chassis.database import Database
from services.billing.main import MIGRATIONS
from services.billing.storage.tables import CHASSIS
from tests.infra.databases import Databases
from tests.integration.chassis.flow import an_event


@pytest.mark.parametrize("is_migrated_again", [True, False], ids=["same tables", "other tables"])
async def test_a_database_that_is_lent_again_is_as_new(
    databases: Databases, tmp_path: Path, database_url: str, is_migrated_again: bool
) -> None:
    kind = database_url.partition("+")[0]
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with databases.lent(kind, folder) as url:
            if number == 0 or is_migrated_again:
                await databases.migrate(url, MIGRATIONS)
            else:
                await databases.create_tables(url, CHASSIS.outbox.metadata)
            database = Database(url, CHASSIS)
            async with database.reader() as session:
                assert await session.scalar(select(func.count()).select_from(CHASSIS.outbox)) == 0
            async with database.unit_of_work() as uow:
                uow.emit(an_event())
            await database.dispose()
