"""A replica that builds its index until it is killed: `python -m … DATABASE_URL FOLDER`. It says when it has committed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from chassis.clock import SystemClock
from chassis.database import Database
from services.catalog.storage.tables import CHASSIS
from services.catalog.usecases.project_search import ProjectionLimits, SearchProjection


async def main(url: str, folder: Path) -> None:
    limits = ProjectionLimits(batch_models=7, commit_models=7, heap_bytes=15_000_000)
    projection = SearchProjection(Database(url, CHASSIS), SystemClock(), folder, limits)
    await projection.open()
    while not await projection.step():
        sys.stdout.write("committed\n")
        sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
