"""A platform to be hurt."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from embedded.platform import Platform, running_platform
from embedded.supervisor import SupervisorLimits
from tests.infra.up import processes_naming

# A part that we kill every few seconds does not fail by itself: no kill waits longer than another.
AT_ONCE = SupervisorLimits(steady_s=1.0)


@asynccontextmanager
async def platform_to_hurt(folder: Path, environment: Mapping[str, str] | None = None) -> AsyncIterator[Platform]:
    """A platform for the block; what its parts said is in `<part>.log` in the folder.

    Raises:
        AssertionError: something of it runs after it was stopped.
    """

    def keep(part: str, line: str) -> None:
        with (folder / f"{part}.log").open("a") as log:
            log.write(f"{line}\n")

    async with running_platform(folder / "data", keep, environment, AT_ONCE) as platform:
        yield platform
    left = processes_naming(str(folder))
    assert left == [], f"the platform was stopped, and these run on: {left}"
