"""kill -9 of `modelyard up` itself."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from pathlib import Path

from modelyard_client import Modelyard

from tests.fault.scenarios.scenario import PHASE_S_MAX
from tests.infra.tenant import Tenant, until
from tests.infra.up import Up, running_up
from tests.infra.witnesses import Fault

NOTHING_RUNS_S_MAX = 30.0


def kill_supervisor(up: Up) -> Fault:
    """kill -9, now. What its engines have under way ends with them."""
    assert up.process is not None
    fault = Fault("supervisor", time.monotonic(), time.time_ns() // 1_000_000, engine_lost=True)
    up.process.kill()
    up.process.wait()
    # It could not take this away; the next start writes it when everything answers.
    (up.home / "addresses.json").unlink()
    return fault


async def test_without_a_supervisor_nothing_runs_on_and_the_next_start_finds_all(
    tmp_path: Path, rng: random.Random
) -> None:
    """Services, broker, keepers and engines end within 30 s; then `up` again serves the same project under the same
    addresses, and calls, instances and bill are right by the rules that hold for any other kill.
    """

    async def nothing_runs() -> bool:
        return not up.processes()

    with running_up(tmp_path / "home") as up:
        async with Modelyard.from_file(up.home / "addresses.json") as before:
            tenant = await Tenant.create(before)
            async with tenant.load(str(rng.random())).running() as log:
                await tenant.steady(log, 0.0)
                await asyncio.sleep(rng.uniform(0, PHASE_S_MAX))
                fault = kill_supervisor(up)
                await until(nothing_runs, f"nothing of {up.home} runs", s_max=NOTHING_RUNS_S_MAX)
                ended_s = time.monotonic() - fault.at_s
                await asyncio.to_thread(up.start)
                recovered_s = await tenant.recovered(log, fault.at_s)
                await tenant.steady(log, fault.at_s)
        async with Modelyard.from_file(up.home / "addresses.json") as after:
            print(f"supervisor: all ended after {ended_s:.1f} s, recovered after {recovered_s:.1f} s; {log.summary()}")
            proof = await replace(tenant, modelyard=after).prove(log, [fault])
            assert proof.differences == []
