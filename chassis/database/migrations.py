"""Alembic, driven from code: upgrade to head, make a migration, and find drift between migrations and tables."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from alembic import command, context
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, pool, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from chassis.database.connections import sqlite_engine

T = TypeVar("T")

# Services that start at once migrate one after the other; the number names this lock and nothing else.
_POSTGRES_LOCK = 7_233_971_048_216_519
# Alembic keeps its context in globals, so a process runs one at a time.
_ALEMBIC = asyncio.Lock()


def run_env(metadata: MetaData) -> None:
    """What a service's migrations/env.py does: run the migrations on the connection this module opened."""
    connection: Connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()


async def migrate(url: str, script_location: Path) -> None:
    """Upgrade a database to the newest migration, in one transaction: all of it or nothing."""

    def upgrade(connection: Connection) -> None:
        command.upgrade(_config(script_location, connection), "head")

    await _in_transaction(url, upgrade)


async def migration_drift(url: str, metadata: MetaData, script_location: Path) -> list[str]:
    """What the tables say and the migrations do not, after upgrading; empty when they agree."""

    def compare(connection: Connection) -> list[str]:
        command.upgrade(_config(script_location, connection), "head")
        differences: list[Any] = compare_metadata(
            MigrationContext.configure(connection, opts={"compare_type": True}), metadata
        )
        return [str(difference) for difference in differences]

    return await _in_transaction(url, compare)


async def make_migration(url: str, script_location: Path, message: str) -> None:
    """Write a new migration: the difference between the tables and an upgraded, otherwise empty database."""

    def write(connection: Connection) -> None:
        config = _config(script_location, connection)
        command.upgrade(config, "head")
        command.revision(config, message, autogenerate=True)

    await _in_transaction(url, write)


def _config(script_location: Path, connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(script_location).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


async def _in_transaction(url: str, action: Callable[[Connection], T]) -> T:
    is_sqlite = make_url(url).get_backend_name() == "sqlite"
    if is_sqlite:
        engine = sqlite_engine(url, foreign_keys=False, poolclass=pool.NullPool)
    else:
        engine = create_async_engine(url, poolclass=pool.NullPool)
    try:
        async with _ALEMBIC, engine.begin() as connection:
            if not is_sqlite:
                await connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _POSTGRES_LOCK})
            return await connection.run_sync(action)
    finally:
        await engine.dispose()
