"""SQLite's log is moved into the database when it is long, whoever reads meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest_asyncio
from sqlalchemy import text

from chassis.database import Database
from services.catalog.main import MIGRATIONS
from services.catalog.storage.tables import CHASSIS, CollectionRow

LOG_BYTES = 200_000


@pytest_asyncio.fixture
async def database(tmp_path: Path) -> Database:
    found = Database(f"sqlite+aiosqlite:///{tmp_path / 'data.db'}", CHASSIS, log_bytes=LOG_BYTES)
    await found.migrate(MIGRATIONS)
    return found


def log_of(tmp_path: Path) -> int:
    return (tmp_path / "data.db-wal").stat().st_size


async def write(database: Database, number: int) -> None:
    """Some pages."""
    async with database.unit_of_work() as uow:
        uow.session.add(CollectionRow(id=f"c{number}", display_name="", kind="HUB", description="x" * 50_000))


async def count(database: Database) -> int:
    async with database.reader() as session:
        return int((await session.execute(text("select count(*) from collection"))).scalar_one())


async def test_a_long_log_is_begun_anew(database: Database, tmp_path: Path) -> None:
    """Again and again, beside readers that come one after the other; nothing is lost."""
    reading = True

    async def read() -> None:
        while reading:
            await count(database)

    readers = [asyncio.create_task(read()) for _ in range(3)]
    longest = 0
    for number in range(40):
        await write(database, number)
        longest = max(longest, log_of(tmp_path))
    reading = False
    await asyncio.gather(*readers)
    assert longest < 3 * LOG_BYTES
    assert await count(database) == 40
    await database.dispose()


async def test_a_reader_that_stays_is_not_waited_for_long(database: Database, tmp_path: Path) -> None:
    """The log grows meanwhile, and writers go on; when it has left, the log is begun anew."""
    async with database.reader() as session:
        await session.execute(text("select count(*) from collection"))
        for number in range(8):
            await write(database, number)
        assert log_of(tmp_path) > LOG_BYTES
        assert (await session.execute(text("select count(*) from collection"))).scalar_one() == 0
    for number in range(8, 20):
        await write(database, number)
    assert log_of(tmp_path) < 2 * LOG_BYTES
    assert await count(database) == 20
    await database.dispose()
