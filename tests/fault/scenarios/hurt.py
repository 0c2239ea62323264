"""A platform to be hurt."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from embedded.platform import Platform, running_platform
from embedded.supervisor import SupervisorLimits
from tests.fault.scenarios.wall_clock import WallClock
from tests.infra.postgres import Postgres, running_postgres
from tests.infra.up import processes_naming

# A part that we kill every few seconds does not fail by itself: no kill waits longer than another.
AT_ONCE = SupervisorLimits(steady_s=1.0)


class Kind(Enum):
    """What a platform stands on."""

    PLAIN = "as `modelyard up` starts it"
    POSTGRESQL = "billing on PostgreSQL"
    STEPPABLE_CLOCK = "a wall clock that can be stepped"


@dataclass(frozen=True)
class Place:
    """A running platform.

    Attributes:
        logs: Folder with `<part>.log` of each part.
        postgres: The server that billing stands on; None where it is SQLite.
        database_url: Of billing, empty for SQLite.
        wall_clock: What services take for the time of day.
    """

    platform: Platform
    logs: Path
    postgres: Postgres | None
    database_url: str
    wall_clock: WallClock


@asynccontextmanager
async def platform_to_hurt(folder: Path, kind: Kind = Kind.PLAIN) -> AsyncIterator[Place]:
    """A platform for the block, in a folder of its own.

    Raises:
        AssertionError: something of it runs after it was stopped.
    """

    def keep(part: str, line: str) -> None:
        with (folder / f"{part}.log").open("a") as log:
            log.write(f"{line}\n")

    wall_clock = WallClock(folder / "clock")
    environment, postgres, database_url = dict(os.environ), None, ""
    async with AsyncExitStack() as stack:
        if kind is Kind.POSTGRESQL:
            postgres = await stack.enter_async_context(running_postgres())
            database_url = await postgres.new_database()
            environment["MODELYARD_BILLING_DATABASE_URL"] = database_url
        if kind is Kind.STEPPABLE_CLOCK:
            environment |= wall_clock.install()
        platform = await stack.enter_async_context(running_platform(folder / "data", keep, environment, AT_ONCE))
        yield Place(platform, folder, postgres, database_url, wall_clock)
    left = processes_naming(str(folder))
    assert left == [], f"the platform was stopped, and these run on: {left}"
