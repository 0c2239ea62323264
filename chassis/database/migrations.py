"""Alembic, driven from code: upgrade to head, make a migration, and find drift between migrations and tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from alembic import command, context
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, pool
from sqlalchemy.ext.asyncio import create_async_engine

T = TypeVar("T")


def run_env(metadata: MetaData) -> None:
    """What a service's migrations/env.py does: run the migrations on the connection this module opened."""
    connection: Connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()


async def migrate(url: str, script_location: Path) -> None:
    """Upgrade a database to the newest migration; a database that is there already is left alone."""

    def upgrade(connection: Connection) -> None:
        command.upgrade(_config(script_location, connection), "head")

    await _with_connection(url, upgrade)


async def migration_drift(url: str, metadata: MetaData, script_location: Path) -> list[str]:
    """What the tables say and the migrations do not, after upgrading; empty when they agree."""

    def compare(connection: Connection) -> list[str]:
        command.upgrade(_config(script_location, connection), "head")
        differences: list[Any] = compare_metadata(
            MigrationContext.configure(connection, opts={"compare_type": True}), metadata
        )
        return [str(difference) for difference in differences]

    return await _with_connection(url, compare)


async def make_migration(url: str, script_location: Path, message: str) -> None:
    """Write a new migration from the difference between the tables and an upgraded, otherwise empty database."""

    def write(connection: Connection) -> None:
        config = _config(script_location, connection)
        command.upgrade(config, "head")
        command.revision(config, message, autogenerate=True)

    await _with_connection(url, write)


def _config(script_location: Path, connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(script_location))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


async def _with_connection(url: str, action: Callable[[Connection], T]) -> T:
    engine = create_async_engine(url, poolclass=pool.NullPool)
    try:
        async with engine.connect() as connection:
            result = await connection.run_sync(action)
            await connection.commit()
            return result
    finally:
        await engine.dispose()
