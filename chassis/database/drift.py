"""python -m chassis.database.drift services.X …: fail when a service's migrations differ from its tables."""

from __future__ import annotations

import asyncio
import importlib
import sys
import tempfile
from pathlib import Path

from sqlalchemy import MetaData

from chassis.database.migrations import migration_drift


def metadata_of(service: str) -> tuple[MetaData, Path]:
    """A service's metadata, which its tables share, and the folder of its migrations."""
    storage = importlib.import_module(f"{service}.storage")
    metadata: MetaData = importlib.import_module(f"{service}.storage.tables").CHASSIS.outbox.metadata
    return metadata, Path(str(storage.__file__)).parent / "migrations"


def main(services: list[str]) -> int:
    """Compare on an empty SQLite database; the integration tests compare on PostgreSQL."""
    drifted = 0
    for service in services:
        metadata, migrations = metadata_of(service)
        with tempfile.TemporaryDirectory() as folder:
            differences = asyncio.run(migration_drift(f"sqlite+aiosqlite:///{folder}/drift.db", metadata, migrations))
        for difference in differences:
            drifted = 1
            sys.stderr.write(f"{service}: {difference}\n")
    return drifted


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
