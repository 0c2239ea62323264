"""Units of work: one transaction, rows and outbox together, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Column, Row, Select, Table, insert, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.sql.dml import ReturningInsert

from chassis.database.connections import (
    CACHE_BYTES,
    JSON_CODEC,
    LOG_BYTES,
    READER_CACHE_BYTES,
    checkpoint,
    release_pages,
    sqlite_engine,
)
from chassis.database.migrations import migrate
from chassis.database.session import Session
from chassis.database.tables import ChassisTables
from chassis.errors import DatabaseOrderUnfit
from chassis.events import Event, Projection, encode_projection
from chassis.ids import new_uid

Statement = TypeVar("Statement", bound=Select[Any])

# How long readers are waited for before the log is moved; writers wait meanwhile.
_CHECKPOINT_WAIT_MS = 1000
# In this order by their bytes; languages have them the other way round.
_FIRST, _SECOND = "B", "a"
# The broker takes 1 MiB with its headers.
MESSAGE_BYTES_MAX = 960 * 1024
# What a database that is away or overloaded raises; drivers let some socket errors through.
DATABASE_ERRORS = (SQLAlchemyError, OSError)


class UnitOfWork:
    """One transaction. What it emits is published if and only if it commits.

    Never await the network while one is open: on SQLite every other writer waits for it, on PostgreSQL its
    locks are held meanwhile.
    """

    def __init__(self, database: Database, session: Session) -> None:
        self._database = database
        self.session = session
        self._outbox: list[dict[str, Any]] = []

    def emit(self, emitted: Event) -> None:
        """Publish an event when this commits.

        Raises:
            ValueError: larger than a message of the broker may be; it could never leave the outbox.
        """
        _check_size(emitted.subject, emitted.data)
        self._outbox.append(
            {
                "id": emitted.id,
                "kind": "event",
                "subject": emitted.subject,
                "headers": json.dumps(emitted.headers()),
                "data": emitted.data,
                "sequence": emitted.sequence,
            }
        )

    def project(self, projection: Projection) -> None:
        """Write a bucket's value when this commits; a newer sequence that is already there stays.

        Raises:
            ValueError: larger than a message of the broker may be.
        """
        _check_size(f"{projection.bucket}/{projection.key}", projection.value)
        self._outbox.append(
            {
                "id": new_uid(),
                "kind": "projection",
                "subject": projection.bucket,
                "headers": projection.key,
                "data": encode_projection(projection.sequence, projection.value),
                "sequence": projection.sequence,
            }
        )

    async def _flush_outbox(self) -> bool:
        if not self._outbox:
            return False
        await self.session.execute(insert(self._database.tables.outbox), self._outbox)
        return True


class Database:
    """A service's database.

    Args:
        url: `sqlite+aiosqlite:///path` or `postgresql+asyncpg://…`.
        tables: The chassis' tables in the service's metadata.
        pool_size_max: Connections kept to PostgreSQL, or readers of a SQLite file beside its one writer.
        pool_timeout_s: How long to wait for a connection before giving up.
        busy_timeout_ms: How long SQLite waits for another process' lock.
        cache_bytes: Pages that SQLite's writer keeps in memory.
        log_bytes: How long SQLite's log grows before it is moved into the database.
    """

    def __init__(
        self,
        url: str,
        tables: ChassisTables,
        *,
        pool_size_max: int = 10,
        pool_timeout_s: float = 30.0,
        busy_timeout_ms: int = 10_000,
        cache_bytes: int = CACHE_BYTES,
        log_bytes: int = LOG_BYTES,
    ) -> None:
        self.url = url
        self.tables = tables
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        self.outbox_signal = asyncio.Event()
        self._writing = _WriterQueue() if self.is_sqlite else None
        self._log = _Log(Path(f"{make_url(url).database}-wal"), log_bytes)
        if self.is_sqlite:
            self._writers = sqlite_engine(
                url,
                busy_timeout_ms=busy_timeout_ms,
                cache_bytes=cache_bytes,
                log_bytes=0,
                pool_size=1,
                max_overflow=0,
            )
            self._readers = sqlite_engine(
                url,
                busy_timeout_ms=busy_timeout_ms,
                cache_bytes=READER_CACHE_BYTES,
                read_only=True,
                pool_size=pool_size_max,
                max_overflow=0,
                pool_timeout=pool_timeout_s,
            )
        else:
            self._writers = create_async_engine(
                url,
                pool_size=pool_size_max,
                max_overflow=0,
                pool_timeout=pool_timeout_s,
                pool_pre_ping=True,  # finds out that the server was restarted before a statement does
                isolation_level="READ COMMITTED",
                **JSON_CODEC,
            )
            self._readers = self._writers.execution_options(postgresql_readonly=True)

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[UnitOfWork]:
        """Commit at the end of the block, roll back when it raises; application code never commits.

        Raises:
            RuntimeError: opened inside another one by the same task, which SQLite could never grant.
        """
        if self._writing is None:
            async with self._transaction() as uow:
                yield uow
            return
        async with self._writing.turn():
            async with self._transaction() as uow:
                yield uow
            if self._log.is_long():
                self._log.moved(await checkpoint(self._writers, wait_ms=_CHECKPOINT_WAIT_MS))

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[UnitOfWork]:
        async with Session(self._writers, expire_on_commit=False) as session:
            uow = UnitOfWork(self, session)
            yield uow
            emitted = await uow._flush_outbox()
            await session.commit()
        if emitted:
            self.outbox_signal.set()

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[Session]:
        """Read only: the database refuses to write. On SQLite all reads of the block see one state."""
        async with Session(self._readers, expire_on_commit=False) as session:
            yield session

    def locking(self, statement: Statement) -> Statement:
        """What a decision reads is loaded `for update`; a SQLite writer holds the only lock there is."""
        return statement if self.is_sqlite else statement.with_for_update()

    async def insert_ignoring(
        self,
        uow: UnitOfWork,
        table: Table,
        rows: Sequence[Mapping[str, Any]],
        *,
        returning: Sequence[Column[Any]],
        chunk_rows: int = 1000,
    ) -> list[Row[Any]]:
        """Insert what is not there yet (by any unique key).

        Returns:
            These columns of the rows that were added, in no particular order.
        """
        statement = _insert_ignoring(table, tuple(returning), self.is_sqlite)
        added: list[Row[Any]] = []
        for start in range(0, len(rows), chunk_rows):
            result = await uow.session.execute(statement, list(rows[start : start + chunk_rows]))
            added.extend(result.all())
        return added

    async def check_order(self) -> None:
        """Find out whether texts are ordered by their bytes: pages end, and ranges of names begin, where names do.

        Raises:
            DatabaseOrderUnfit: they are ordered by a language, as PostgreSQL does where nothing else is said.
        """
        async with self.reader() as session:
            is_by_bytes = (await session.execute(select(literal(_FIRST) < literal(_SECOND)))).scalar_one()
        if not is_by_bytes:
            raise DatabaseOrderUnfit(
                f"the database {make_url(self.url).database!r} orders texts by a language, not by their bytes, and lists "
                "would leave rows out; make it with `createdb --template=template0 --locale=C`"
            )

    async def migrate(self, script_location: Path) -> None:
        """Upgrade to the newest migration; one that is there already is left alone."""
        await migrate(self.url, script_location)

    async def release_memory(self) -> None:
        """Give back the memory that SQLite's writer keeps, after more work at once than usual."""
        if self._writing is not None:
            async with self._writing.turn():
                await release_pages(self._writers)

    async def dispose(self) -> None:
        """Close every connection."""
        await self._writers.dispose()
        await self._readers.dispose()


# Built once: it takes longer than to insert a few rows.
@cache
def _insert_ignoring(table: Table, returning: tuple[Column[Any], ...], is_sqlite: bool) -> ReturningInsert[Any]:
    dialect = sqlite if is_sqlite else postgresql
    statement: ReturningInsert[Any] = dialect.insert(table).on_conflict_do_nothing().returning(*returning)
    return statement


def _check_size(what: str, data: bytes) -> None:
    if len(data) > MESSAGE_BYTES_MAX:
        raise ValueError(f"message for {what} has {len(data)} bytes; {MESSAGE_BYTES_MAX} are allowed")


class _Log:
    """SQLite's log: when it is long enough to be moved into the database."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._move_at = bytes_max

    def is_long(self) -> bool:
        return self._bytes() >= self._move_at

    def moved(self, is_empty: bool) -> None:
        """Where a reader was in the way it is tried again when as much has come."""
        self._move_at = self._bytes_max if is_empty else self._bytes() + self._bytes_max

    def _bytes(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0


class _WriterQueue:
    """SQLite has one writer: queueing here is fair, its own busy handler is not."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._owner: asyncio.Task[Any] | None = None

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the writer's place and hold it."""
        task = asyncio.current_task()
        if task is not None and task is self._owner:
            raise RuntimeError("a unit of work was opened inside another one; pass the first one on")
        async with self._lock:
            self._owner = task
            try:
                yield
            finally:
                self._owner = None
