"""Imports assets a few at a time, to be killed while it does: `python -m tests.integration.catalog.import_child URL`."""

from __future__ import annotations

import asyncio
import sys

from chassis.clock import SystemClock
from chassis.database import Database
from services.catalog.storage.tables import CHASSIS
from services.catalog.usecases.import_assets import import_assets
from tests.integration.catalog.assets import LIMITS, an_asset, incoming

ASSETS = [an_asset(name=f"model-{number:03}") for number in range(300)]
PER_CALL = 20


async def main(url: str) -> None:
    """Say how many are in after every call."""
    database = Database(url, CHASSIS)
    for start in range(0, len(ASSETS), PER_CALL):
        await import_assets(database, SystemClock(), incoming(*ASSETS[start : start + PER_CALL]), LIMITS)
        print(start + PER_CALL, flush=True)  # noqa: T201
    await database.dispose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
