"""python -m services.catalog [migrate]"""

from __future__ import annotations

import asyncio
import sys

from chassis.database.migrations import migrate
from chassis.service import run_service
from services.catalog.main import MIGRATIONS, main
from services.catalog.settings import CatalogSettings

if __name__ == "__main__":
    settings = CatalogSettings.from_environment()
    if sys.argv[1:] == ["migrate"]:
        asyncio.run(migrate(settings.resolved_database_url("catalog"), MIGRATIONS))
    else:
        run_service("catalog", settings, lambda context: main(context, settings))
