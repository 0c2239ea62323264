"""SQLite's driver for SQLAlchemy, with one change of threads a statement.

A connection has a thread, and each of sqlite3's calls is a change to it and back, dearer than most statements. SQLAlchemy's
own adapter of aiosqlite makes four for a query (a cursor, the statement, its rows, the cursor's end), three for a begin.
Here each is one, and a begin goes with the first statement. Everything else is left to the adapter.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import aiosqlite
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_connection, AsyncAdapt_aiosqlite_dbapi

# What a cursor says of its statement (`Cursor.description`, `.rowcount`, `.lastrowid`), and its rows.
_Outcome = tuple[Any, int, int | None, list[Any]]


class Driver(AsyncAdapt_aiosqlite_dbapi):
    """The module that SQLAlchemy takes for SQLite's driver: `create_async_engine(url, module=Driver())`."""

    def __init__(self) -> None:
        super().__init__(aiosqlite, sqlite3)

    def connect(self, *args: Any, **options: Any) -> Connection:
        return Connection(self, super().connect(*args, **options).driver_connection)


class Connection(AsyncAdapt_aiosqlite_connection):
    """A connection whose transactions begin with their first statement.

    Attributes:
        begin_statement: Goes before the next statement; empty while a transaction runs and between two.
    """

    __slots__ = ("_may_have_begun", "begin_statement")

    def __init__(self, driver: Driver, connection: Any) -> None:
        super().__init__(driver, connection)
        self.begin_statement = ""
        # True from a statement's call on: one whose caller was cancelled may still come.
        self._may_have_begun = False

    def cursor(self, server_side: bool = False) -> Any:
        if server_side:
            raise NotImplementedError("rows of SQLite come all at once; ask for pages")
        return _Cursor(self)

    def run(self, statement: Callable[..., _Outcome], operation: str, parameters: Any) -> _Outcome:
        """In the connection's thread, after a begin that is still to be run."""
        begin, self.begin_statement, self._may_have_begun = self.begin_statement, "", True
        try:
            outcome: _Outcome = self.run_async(
                lambda driver: driver._execute(statement, driver._conn, begin, operation, parameters)
            )
        except ValueError as closed:
            self._handle_exception(closed)
        return outcome

    def commit(self) -> None:
        self.begin_statement = ""
        if self._may_have_begun:
            super().commit()
            self._may_have_begun = False

    def rollback(self) -> None:
        self.begin_statement = ""
        if self._may_have_begun:
            super().rollback()
            self._may_have_begun = False


class _Cursor:
    """One statement, whose rows are all there when it has run."""

    arraysize = 1

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rows: deque[Any] = deque()
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None

    def execute(self, operation: str, parameters: Any = ()) -> None:
        self._take(self._connection.run(_execute, operation, parameters))

    def executemany(self, operation: str, parameters: Sequence[Any]) -> None:
        self._take(self._connection.run(_execute_many, operation, parameters))

    def _take(self, outcome: _Outcome) -> None:
        self.description, self.rowcount, self.lastrowid, rows = outcome
        self._rows = deque(rows)

    def fetchone(self) -> Any:
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = None) -> list[Any]:
        return [self._rows.popleft() for _ in range(min(size or self.arraysize, len(self._rows)))]

    def fetchall(self) -> list[Any]:
        rows = list(self._rows)
        self._rows.clear()
        return rows

    def __iter__(self) -> Iterator[Any]:
        while self._rows:
            yield self._rows.popleft()

    def close(self) -> None:
        self._rows.clear()

    async def _async_soft_close(self) -> None:
        """SQLAlchemy lets go of the database here and keeps the rows; nothing is held."""


def _execute(connection: sqlite3.Connection, begin: str, operation: str, parameters: Any) -> _Outcome:
    if begin:
        connection.execute(begin)
    return _finish(connection.execute(operation, parameters or ()))


def _execute_many(connection: sqlite3.Connection, begin: str, operation: str, parameters: Sequence[Any]) -> _Outcome:
    if begin:
        connection.execute(begin)
    return _finish(connection.executemany(operation, parameters))


def _finish(cursor: sqlite3.Cursor) -> _Outcome:
    try:
        rows = cursor.fetchall() if cursor.description else []
        return cursor.description, cursor.rowcount, cursor.lastrowid, rows
    finally:
        cursor.close()
