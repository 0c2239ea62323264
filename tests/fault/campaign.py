"""`make faults RUNS=n SEED=s`: every part is killed n times under load, and every run is proved by the witnesses.

    python -m tests.fault.campaign --runs 3 --seed 1 --output bench/faults.json

The rows say what each fault costs. A run is repeated by its seed: `--seed` of the campaign, and the run's number.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelyard_client import Modelyard

from embedded.platform import Platform, running_platform
from tests.infra.faults import Part, Tenant, moment_to_strike, recovered, strike
from tests.infra.load import ClientLog, End
from tests.infra.witnesses import Ledger, check_processes, instance_owners, read_lives


@dataclass
class Row:
    """What killing one part cost, over all runs."""

    process: str
    runs: int = 0
    requests: int = 0
    refused: int = 0
    completed: int = 0
    cut: int = 0
    lost: int = 0
    double: int = 0
    core_ms_diff_max: int = 0
    orphans: int = 0
    recover_s: list[float] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The row as bench/faults.json holds it; `recover_s` as median and maximum."""
        seconds = self.recover_s or [0.0]
        return {
            **{name: value for name, value in vars(self).items() if name != "recover_s"},
            "recover_s_median": round(statistics.median(seconds), 2),
            "recover_s_max": round(max(seconds), 2),
        }


async def run_once(row: Row, part: Part, platform: Platform, seed: str) -> None:
    """One fault, from a healthy platform to the proof."""
    async with Modelyard.from_file(platform.home.addresses) as modelyard:
        tenant = await Tenant.create(modelyard)
        async with tenant.load(seed).running() as log:
            await moment_to_strike(log, random.Random(seed))
            fault = await strike(part, platform, tenant)
            row.recover_s.append(await recovered(tenant, log, fault))
        await tenant.delete_managed()
        ledger = await tenant.whole_ledger(log)
        _count(row, log, ledger)
        lives = read_lives(tenant.instances_dir)
        row.orphans += len(check_processes(tenant.data_dir, lives))
        billed = ledger.billed_core_ms()
        owners = await instance_owners(modelyard)
        for uid, owner in owners.items():
            life = lives.get(uid)
            if owner == tenant.managed and life is not None and life.exited_ms is not None:
                lived = life.vcpus * (life.exited_ms - life.allocated_ms)
                row.core_ms_diff_max = max(row.core_ms_diff_max, abs(lived - billed[uid]))
        row.differences += [f"seed {seed}: {one}" for one in await tenant.differences(log, ledger, fault)]
    row.runs += 1


def _count(row: Row, log: ClientLog, ledger: Ledger) -> None:
    records = Counter(record.request_id for record in ledger.records)
    row.requests += len(log.calls)
    row.completed += len(log.ended(End.COMPLETED))
    row.refused += sum(1 for call in log.ended(End.REFUSED) if call.plan.valid)
    row.cut += len(log.ended(End.CUT, End.LEFT))
    row.lost += sum(1 for call in log.ended(End.COMPLETED) if not records[call.request_id])
    row.double += sum(count - 1 for count in records.values() if count > 1)


async def campaign(parts: Sequence[Part], runs: int, seed: int, output: Path) -> list[Row]:
    """Run everything on one platform; the file is written after every run, so that a cut campaign leaves its rows."""
    rows = {part: Row(part.value) for part in parts}
    with tempfile.TemporaryDirectory(prefix="modelyard-faults-") as folder:
        logs = Path(folder) / "platform.log"

        def keep(part: str, line: str) -> None:
            with logs.open("a") as log:
                log.write(f"{part} {line}\n")

        async with running_platform(Path(folder) / "data", keep) as platform:
            for number in range(runs):
                for part in parts:
                    await run_once(rows[part], part, platform, f"{seed}/{number}/{part.value}")
                    _say(rows[part], number + 1, runs)
                    output.write_text(
                        json.dumps({"seed": seed, "rows": [row.to_json() for row in rows.values()]}, indent=2) + "\n"
                    )
    return list(rows.values())


def _say(row: Row, number: int, runs: int) -> None:
    proved = "proved" if not row.differences else f"{len(row.differences)} DIFFERENCES"
    print(
        f"{number}/{runs} {row.process:<15} {row.recover_s[-1]:5.1f} s to recover; {row.requests} requests, "
        f"{row.refused} refused, {row.completed} completed, {row.cut} cut; lost {row.lost}, double {row.double}, "
        f"core-ms off by {row.core_ms_diff_max}, orphans {row.orphans}: {proved}",
        flush=True,
    )


def main() -> None:
    """Exit status 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="kills of each part")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--parts", nargs="*", choices=[part.value for part in Part], default=None)
    parser.add_argument("--output", type=Path, default=Path("bench/faults.json"))
    given = parser.parse_args()
    parts = [Part(name) for name in given.parts] if given.parts else list(Part)
    print(f"seed {given.seed}: `make faults RUNS={given.runs} SEED={given.seed}` repeats it", flush=True)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    rows = asyncio.run(campaign(parts, given.runs, given.seed, given.output))
    differences = [one for row in rows for one in row.differences]
    for one in differences:
        print(one)
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
