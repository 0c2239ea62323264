"""Databases for tests, each test's own while it runs: SQLite files, and databases of one PostgreSQL server a session."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import create_async_engine

from chassis.database.migrations import migrate
from tests.infra.postgres import Postgres, running_postgres

SQLITE, POSTGRESQL = "sqlite", "postgresql"

_DROP_ALL = "drop schema public cascade; create schema public"
# Migrations of an empty database make tables and no rows, so without rows it is as they left it.
_TRUNCATE_WHAT_WAS_WRITTEN = """
do $$ declare written text; begin
  select string_agg(quote_ident(relname), ', ') into written from pg_class
    where relnamespace = 'public'::regnamespace and relkind = 'r' and relname <> 'alembic_version'
    and pg_relation_size(oid) > 0;
  if written is not null then
    execute 'truncate ' || written || ' restart identity cascade';
  end if;
end $$
"""


class Databases:
    """Lends them, empty or with a service's tables.

    To create a database on PostgreSQL, to migrate it and to drop it costs more than most tests do. So databases are
    lent again, and where the next test needs the same tables, they are truncated. A SQLite file is a copy of the first one
    that was migrated.
    """

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._postgres: Postgres | None = None
        self._free: list[str] = []
        self._scripts: dict[str, Path] = {}  # by which a database was migrated, if it was
        self._files: dict[Path, Path] = {}

    @asynccontextmanager
    async def lent(self, kind: str, folder: Path) -> AsyncIterator[str]:
        """URL of a database for the block, to be made empty or given tables first; a SQLite file lies in the folder."""
        if kind == SQLITE:
            yield _sqlite_url(folder / "test.db")
            return
        if self._postgres is None:
            self._postgres = await self._stack.enter_async_context(running_postgres())
        url = self._free.pop() if self._free else await self._postgres.new_database()
        yield url
        await self._postgres.disconnect_all(url)
        self._free.append(url)

    async def empty(self, url: str) -> None:
        """Leave nothing in it."""
        if _is_sqlite(url):
            return
        assert self._postgres is not None
        self._scripts.pop(url, None)
        await self._postgres.execute(_DROP_ALL, url=url)

    async def migrate(self, url: str, scripts: Path) -> None:
        """Leave a service's newest tables in it, and no rows."""
        if _is_sqlite(url):
            shutil.copyfile(await self._migrated_file(scripts), _sqlite_path(url))
        elif self._scripts.get(url) == scripts:
            assert self._postgres is not None
            await self._postgres.execute(_TRUNCATE_WHAT_WAS_WRITTEN, url=url)
        else:
            await self.empty(url)
            await migrate(url, scripts)
            self._scripts[url] = scripts

    async def create_tables(self, url: str, metadata: MetaData) -> None:
        """Leave the metadata's tables in it, and no rows."""
        await self.empty(url)
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        await engine.dispose()

    async def _migrated_file(self, scripts: Path) -> Path:
        if scripts not in self._files:
            path = self._folder / f"{len(self._files)}.db"
            await migrate(_sqlite_url(path), scripts)
            self._files[scripts] = path
        return self._files[scripts]


@asynccontextmanager
async def databases_for_tests(folder: Path) -> AsyncIterator[Databases]:
    """For the length of the block; files to be copied lie in the folder."""
    async with AsyncExitStack() as stack:
        yield Databases(folder, stack)


def _is_sqlite(url: str) -> bool:
    return url.startswith(SQLITE)


def _sqlite_url(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


def _sqlite_path(url: str) -> Path:
    return Path(url.partition("///")[2])
