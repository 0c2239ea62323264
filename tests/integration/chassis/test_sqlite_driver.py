"""Each statement on SQLite changes to the connection's thread once, and what SQLAlchemy promises stays."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from chassis.database.connections import sqlite_engine


@pytest_asyncio.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """A writer on a file with one table."""
    engine = sqlite_engine(f"sqlite+aiosqlite:///{tmp_path}/file.db", busy_timeout_ms=0, pool_size=1, max_overflow=0)
    async with engine.begin() as connection:
        await connection.execute(text("create table numbers (number integer primary key)"))
    yield engine
    await engine.dispose()


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A name for each change to a connection's thread."""
    seen: list[str] = []
    real = aiosqlite.Connection._execute

    async def counted(self: aiosqlite.Connection, call: Any, *arguments: Any, **named: Any) -> Any:
        seen.append(call.__name__)
        return await real(self, call, *arguments, **named)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
    return seen


async def numbers(engine: AsyncEngine) -> list[int]:
    async with engine.connect() as connection:
        return list((await connection.execute(text("select number from numbers order by number"))).scalars())


async def test_a_statement_is_one_change_and_a_begin_none(engine: AsyncEngine, changes: list[str]) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("insert into numbers values (1)"))
        await connection.execute(text("insert into numbers values (:n)"), [{"n": 2}, {"n": 3}])
        added = await connection.execute(text("insert into numbers values (4) returning number"))
        assert added.scalar_one() == 4
    assert changes == ["_execute", "_execute_many", "_execute", "commit"]
    changes.clear()
    assert await numbers(engine) == [1, 2, 3, 4]
    assert changes == ["_execute", "rollback"]


async def test_what_ran_no_statement_has_nothing_to_end(engine: AsyncEngine, changes: list[str]) -> None:
    async with engine.begin():
        pass
    async with engine.connect() as connection:
        await connection.begin()
    assert changes == []


async def test_a_transaction_that_fails_leaves_nothing(engine: AsyncEngine) -> None:
    async with engine.connect() as connection, connection.begin():
        await connection.execute(text("insert into numbers values (1)"))
        with pytest.raises(IntegrityError):
            await connection.execute(text("insert into numbers values (1)"))
        await connection.rollback()
    assert await numbers(engine) == []


async def test_a_begin_that_fails_is_told_and_the_next_one_begins(engine: AsyncEngine, tmp_path: Path) -> None:
    """Another process has the lock: no statement may run outside of a transaction."""
    other = sqlite3.connect(tmp_path / "file.db", isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(OperationalError, match="database is locked"):
        async with engine.begin() as connection:
            await connection.execute(text("insert into numbers values (1)"))
    other.execute("rollback")
    other.close()
    assert await numbers(engine) == []
    async with engine.begin() as connection:
        await connection.execute(text("insert into numbers values (2)"))
    assert await numbers(engine) == [2]


async def test_rows_come_in_any_portions(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("insert into numbers values (:n)"), [{"n": n} for n in range(7)])
        found = await connection.execute(text("select number from numbers order by number"))
        assert found.fetchone() == (0,)
        assert found.fetchmany(2) == [(1,), (2,)]
        assert [number for (number,) in found] == [3, 4, 5, 6]


async def test_a_closed_connection_says_so(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        await driver.close()
        with pytest.raises(OperationalError, match="no active connection"):
            await connection.execute(text("select 1"))
        await connection.invalidate()


async def test_a_statement_whose_caller_leaves_is_not_kept(engine: AsyncEngine) -> None:
    """It may run after that: the connection's thread has it."""
    async with engine.connect() as connection:
        raw = (await connection.get_raw_connection()).driver_connection
        assert raw is not None
        free = threading.Event()
        busy = asyncio.create_task(raw._execute(free.wait, 60))
        writing = asyncio.create_task(connection.execute(text("insert into numbers values (1)")))
        await asyncio.sleep(0)
        writing.cancel()
        free.set()
        await asyncio.wait([writing, busy])
        assert writing.cancelled()
    assert await numbers(engine) == []
