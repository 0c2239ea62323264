"""Connections to SQLite that keep what is committed and begin when told to."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from chassis.database.sqlite_driver import Driver

# For JSON columns; several times as fast as the standard library's.
JSON_CODEC: dict[str, Any] = {
    "json_serializer": lambda value: msgspec.json.encode(value).decode(),
    "json_deserializer": msgspec.json.decode,
}
_LOCKED_RETRY_S = 0.02
# Prepared statements kept by a connection. An insert of many rows is another statement for each number of rows, and one
# of hundreds takes some hundred kilobytes: the driver's own 128 of them come to tens of megabytes.
_STATEMENTS_MAX = 32
_PAGE_BYTES = 4096
# What SQLite itself takes for its log.
LOG_BYTES = CACHE_BYTES = 1000 * _PAGE_BYTES
# Each of several readers has one of its own; what is read often lies in the machine's cache anyway.
READER_CACHE_BYTES = 250 * _PAGE_BYTES


def sqlite_engine(
    url: str,
    *,
    busy_timeout_ms: int = 10_000,
    cache_bytes: int = CACHE_BYTES,
    log_bytes: int = LOG_BYTES,
    read_only: bool = False,
    foreign_keys: bool = True,
    **options: Any,
) -> AsyncEngine:
    """An engine on a SQLite file whose transactions begin where SQLAlchemy says.

    Args:
        cache_bytes: Pages kept in memory.
        log_bytes: How long the log grows before SQLite moves it into the database by itself; 0 leaves that to
            `checkpoint`.
        read_only: Refuse to write, and begin without the write lock.
        foreign_keys: Off for migrations, which drop and make tables anew.
        options: For `create_async_engine`.
    """
    engine = create_async_engine(
        url, module=Driver(), connect_args={"cached_statements": _STATEMENTS_MAX}, **JSON_CODEC, **options
    )
    # IMMEDIATE takes the write lock at once: a reader that turns writer half-way would fail, not wait.
    begin_statement = "begin" if read_only else "begin immediate"
    pragmas = {
        "busy_timeout": str(int(busy_timeout_ms)),
        "synchronous": "full",
        "cache_size": str(-cache_bytes // 1024),
        "wal_autocheckpoint": str(log_bytes // _PAGE_BYTES),
        "foreign_keys": "on" if foreign_keys else "off",
        "query_only": "on" if read_only else "off",
    }

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        # Python's driver would begin by itself, and not before every statement.
        connection.isolation_level = None
        cursor = connection.cursor()
        _write_ahead(cursor, busy_timeout_ms)
        for name, value in pragmas.items():
            cursor.execute(f"pragma {name}={value}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        connection.connection.dbapi_connection.begin_statement = begin_statement

    return engine


async def checkpoint(engine: AsyncEngine, *, wait_ms: int) -> bool:
    """Move the log into the database and begin it anew; whether that was done: readers are waited for so long, no longer.

    SQLite's own way begins a log anew only where it meets no reader at that moment. Beside one that hardly ever pauses it
    grows on, and from then on every commit moves its own pages.
    """
    async with _driver(engine) as driver:
        (before,) = await (await driver.execute("pragma busy_timeout")).fetchone()
        await driver.execute(f"pragma busy_timeout={wait_ms}")
        try:
            is_busy, *_ = await (await driver.execute("pragma wal_checkpoint(truncate)")).fetchone()
        except sqlite3.Error:
            # A full disk, say: what was committed is in the log, and whoever committed it is not told otherwise.
            return False
        finally:
            await driver.execute(f"pragma busy_timeout={before}")
    return not is_busy


async def release_pages(engine: AsyncEngine) -> None:
    """Let a connection forget the pages that it keeps; what it reads next comes from the file."""
    async with _driver(engine) as driver:
        await driver.execute("pragma shrink_memory")


@asynccontextmanager
async def _driver(engine: AsyncEngine) -> AsyncIterator[Any]:
    """A connection without SQLAlchemy's transaction around it: what is asked of it runs outside of one."""
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None  # noqa: S101 - it is connected
        yield driver


def _write_ahead(cursor: Any, busy_timeout_ms: int) -> None:
    """Switch a new file to the write-ahead log; once per file, it stays so.

    SQLite does not wait for other processes here, so processes that start at once on a new file would fail.
    """
    give_up_at = time.monotonic() + busy_timeout_ms / 1000
    cursor.execute("pragma journal_mode")
    while cursor.fetchone()[0] != "wal":
        try:
            cursor.execute("pragma journal_mode=wal")
        except sqlite3.OperationalError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(_LOCKED_RETRY_S)
            cursor.execute("pragma journal_mode")
