"""Open a service's database as its settings say."""

from __future__ import annotations

from pathlib import Path

from chassis.database.engine import Database
from chassis.database.tables import ChassisTables
from chassis.settings import ServiceSettings


async def open_database(settings: ServiceSettings, service: str, tables: ChassisTables, migrations: Path) -> Database:
    """The database of a service, upgraded first where the settings say so.

    Args:
        service: Names the default SQLite file.
        migrations: Folder of the service's Alembic scripts.

    Raises:
        DatabaseOrderUnfit: it orders texts by a language.
    """
    url = settings.resolved_database_url(service)
    database = Database(
        url,
        tables,
        pool_size_max=settings.database_pool_size_max,
        cache_bytes=settings.database_cache_bytes,
        log_bytes=settings.database_log_bytes,
    )
    await database.check_order()
    if settings.migrate_on_start:
        await database.migrate(migrations)
    return database
