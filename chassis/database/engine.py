"""Units of work: one transaction, rows and outbox together, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import Column, Row, Select, Table, event, insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.database.tables import ChassisTables
from chassis.events import Event, Projection, encode_projection
from chassis.ids import new_uid

Statement = TypeVar("Statement", bound=Select[Any])


class UnitOfWork:
    """One transaction. What it emits is published if and only if it commits.

    Never await the network while one is open: on SQLite every other writer waits for it.
    """

    def __init__(self, database: Database, session: AsyncSession) -> None:
        self._database = database
        self.session = session
        self._outbox: list[dict[str, Any]] = []

    def emit(self, emitted: Event) -> None:
        """Publish an event when this commits."""
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
        """Write a bucket's value when this commits; a newer sequence that is already there stays."""
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
        pool_size_max: Connections kept to PostgreSQL; SQLite has one writer and as many readers.
        busy_timeout_ms: How long SQLite waits for another process' lock.
    """

    def __init__(
        self, url: str, tables: ChassisTables, *, pool_size_max: int = 10, busy_timeout_ms: int = 10_000
    ) -> None:
        self.url = url
        self.tables = tables
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        self.outbox_signal = asyncio.Event()
        self._writer = asyncio.Lock()
        if self.is_sqlite:
            self._engine = create_async_engine(url, connect_args={"autocommit": True})
            _prepare_sqlite(self._engine.sync_engine, busy_timeout_ms)
        else:
            self._engine = create_async_engine(
                url, pool_size=pool_size_max, max_overflow=0, pool_pre_ping=True, isolation_level="READ COMMITTED"
            )

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[UnitOfWork]:
        """Commit at the end of the block, roll back when it raises; application code never commits."""
        if not self.is_sqlite:
            async with self._transaction() as uow:
                yield uow
            return
        # SQLite has one writer: queueing here is fair, its own busy handler is not.
        async with self._writer, self._transaction() as uow:
            yield uow

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[UnitOfWork]:
        async with self._session(write=True) as session:
            uow = UnitOfWork(self, session)
            yield uow
            published = await uow._flush_outbox()
            await session.commit()
        if published:
            self.outbox_signal.set()

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[AsyncSession]:
        """A consistent read; what it changes is rolled back."""
        async with self._session(write=False) as session:
            yield session
            await session.rollback()

    @asynccontextmanager
    async def _session(self, *, write: bool) -> AsyncIterator[AsyncSession]:
        async with self._engine.connect() as connection:
            await connection.execution_options(modelyard_write=write)
            async with AsyncSession(connection, expire_on_commit=False) as session:
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
        """Insert what is not there yet (by any unique key); return these columns of the rows that were added."""
        dialect = sqlite if self.is_sqlite else postgresql
        statement = dialect.insert(table).on_conflict_do_nothing().returning(*returning)
        added: list[Row[Any]] = []
        for start in range(0, len(rows), chunk_rows):
            result = await uow.session.execute(statement, list(rows[start : start + chunk_rows]))
            added.extend(result.all())
        return added

    async def dispose(self) -> None:
        """Close every connection."""
        await self._engine.dispose()


def _prepare_sqlite(engine: Any, busy_timeout_ms: int) -> None:
    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout={int(busy_timeout_ms)}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            cursor.execute(f"pragma {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        # IMMEDIATE takes the write lock at once: a reader that turns writer half-way would fail instead of waiting.
        write = connection.get_execution_options().get("modelyard_write", True)
        connection.exec_driver_sql("begin immediate" if write else "begin")
