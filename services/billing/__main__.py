"""python -m services.billing [migrate]"""

from __future__ import annotations

import asyncio
import sys

from chassis.database.migrations import migrate
from chassis.service import run_service
from services.billing.main import MIGRATIONS, main
from services.billing.settings import BillingSettings

if __name__ == "__main__":
    settings = BillingSettings.from_environment()
    if sys.argv[1:] == ["migrate"]:
        asyncio.run(migrate(settings.resolved_database_url("billing"), MIGRATIONS))
    else:
        run_service("billing", settings, lambda context: main(context, settings))
