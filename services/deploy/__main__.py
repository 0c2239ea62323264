"""python -m services.deploy [migrate]"""

from __future__ import annotations

import asyncio
import sys

from chassis.database.migrations import migrate
from chassis.service import run_service
from services.deploy.main import MIGRATIONS, main
from services.deploy.settings import DeploySettings

if __name__ == "__main__":
    settings = DeploySettings.from_environment()
    if sys.argv[1:] == ["migrate"]:
        asyncio.run(migrate(settings.resolved_database_url("deploy"), MIGRATIONS))
    else:
        run_service("deploy", settings, lambda context: main(context, settings))
