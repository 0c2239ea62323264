"""The wall clock steps back an hour under load."""

from __future__ import annotations

import time

from tests.fault.scenarios.hurt import Kind
from tests.fault.scenarios.scenario import Round, Scenario
from tests.infra.load import End
from tests.infra.tenant import RECOVERED_S_MAX, until

STEP_S = -3600
SERVICES = ("catalog", "deploy", "billing", "inference")
_REFUSAL = ("the wall clock says", "the newest stored instant is")


async def stepped_back(played: Round) -> None:
    """What runs goes on with its own time. A service that starts again refuses, names both moments, and is there again
    when the clock is right.
    """
    await played.scale(0)
    stepped = played.goes_wrong("clock stepped back")
    played.place.wall_clock.step(STEP_S)
    await played.tenant.steady(played.log, stepped.at_s)
    played.differences += [
        f"{call} after the step"
        for call in played.log.ended(End.REFUSED)
        if call.plan.valid and call.begun_s > stepped.at_s
    ]
    await played.scale(1)
    seen = {service: _refusals(played, service) for service in SERVICES}
    played.goes_wrong("services killed")
    for service in SERVICES:
        process = played.place.platform.children[service].process
        assert process is not None
        process.kill()

    async def all_refuse() -> bool:
        return all(_refusals(played, service) > seen[service] for service in SERVICES)

    await until(all_refuse, f"{', '.join(SERVICES)} refuse to start an hour back", s_max=RECOVERED_S_MAX)
    played.place.wall_clock.step(0)
    await played.recovered(time.monotonic())


def _refusals(played: Round, service: str) -> int:
    """How often its log says that it does not start, with both moments."""
    lines = (played.place.logs / f"{service}.log").read_text().splitlines()
    return sum(all(part in line for part in _REFUSAL) for line in lines)


CLOCK_STEPS = [Scenario("wall clock back 1 h", stepped_back, Kind.STEPPABLE_CLOCK)]
