"""Migrations run whole or not at all, once, on both databases, and say what the tables say."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, inspect, select
from sqlalchemy.exc import SQLAlchemyError

from chassis.database import Database, chassis_tables
from chassis.database.migrations import make_migration, migration_drift

ROOT = Path(__file__).parents[3]
SERVICES = sorted(
    path.parents[1].name for path in ROOT.glob("services/*/storage/migrations") if any(path.glob("versions/*.py"))
)

METADATA = MetaData()
CHASSIS = chassis_tables(METADATA)
NOTE = Table("note", METADATA, Column("id", Integer, primary_key=True))

ENV = """\
from chassis.database.migrations import run_env
from sqlalchemy import MetaData, Table, Column, Integer
metadata = MetaData()
Table("note", metadata, Column("id", Integer, primary_key=True))
run_env(metadata)
"""
BROKEN = """\
import sqlalchemy as sa
from alembic import op
revision = "0002"
down_revision = "0001"
branch_labels = depends_on = None
def upgrade():
    op.create_table("half", sa.Column("id", sa.Integer, primary_key=True))
    raise RuntimeError("on purpose")
"""
FIRST = """\
import sqlalchemy as sa
from alembic import op
revision = "0001"
down_revision = branch_labels = depends_on = None
def upgrade():
    op.create_table("note", sa.Column("id", sa.Integer, primary_key=True))
"""


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(ENV)
    (folder / "script.py.mako").write_text(next(ROOT.glob("services/*/storage/migrations/script.py.mako")).read_text())
    (folder / "versions" / "0001_first.py").write_text(FIRST)
    return folder


async def tables_of(database: Database) -> set[str]:
    async with database.reader() as session:
        connection = await session.connection()
        return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))


@pytest.mark.parametrize("service", SERVICES)
async def test_a_services_migrations_make_its_tables(service: str, database_url: str) -> None:
    """What is declared is what is migrated, on SQLite and on PostgreSQL."""
    tables = importlib.import_module(f"services.{service}.storage.tables")
    location = ROOT / "services" / service / "storage" / "migrations"
    assert await migration_drift(database_url, tables.CHASSIS.outbox.metadata, location) == []


async def test_services_that_start_at_once_migrate_once(database_url: str, scripts: Path) -> None:
    """The second one waits, and finds nothing to do."""
    databases = [Database(database_url, CHASSIS) for _ in range(3)]
    await asyncio.gather(*(database.migrate(scripts) for database in databases))
    async with databases[0].reader() as session:
        assert (await session.execute(select(NOTE))).all() == []
    for database in databases:
        await database.dispose()


async def test_a_migration_that_fails_leaves_nothing(database_url: str, scripts: Path) -> None:
    """Not even its first half, nor what came before it in the same upgrade."""
    (scripts / "versions" / "0002_broken.py").write_text(BROKEN)
    database = Database(database_url, CHASSIS)
    with pytest.raises(RuntimeError, match="on purpose"):
        await database.migrate(scripts)
    assert await tables_of(database) == set()
    (scripts / "versions" / "0002_broken.py").unlink()
    await database.migrate(scripts)
    assert "note" in await tables_of(database)
    await database.dispose()


async def test_drift_is_named(database_url: str, scripts: Path) -> None:
    """A table without a migration, by its name."""
    metadata = MetaData()
    Table("note", metadata, Column("id", Integer, primary_key=True))
    Table("forgotten", metadata, Column("id", Integer, primary_key=True))
    [difference] = await migration_drift(database_url, metadata, scripts)
    assert "forgotten" in difference


async def test_a_migration_is_made_from_the_difference(database_url: str, scripts: Path) -> None:
    """And closes it."""
    (scripts / "env.py").write_text(
        ENV.replace("run_env(", 'Table("added", metadata, Column("id", Integer, primary_key=True))\nrun_env(')
    )
    await make_migration(database_url, scripts, "add a table")
    database = Database(database_url, CHASSIS)
    await database.migrate(scripts)
    assert {"note", "added"} <= await tables_of(database)
    await database.dispose()


async def test_an_unreachable_database_is_a_database_error(scripts: Path, tmp_path: Path) -> None:
    """Callers catch one family."""
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'missing' / 'x.db'}", CHASSIS)
    with pytest.raises(SQLAlchemyError):
        await database.migrate(scripts)
    await database.dispose()
