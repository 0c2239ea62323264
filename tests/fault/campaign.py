"""`make faults RUNS=n SEED=s`: every part is killed n times under load, all else goes wrong once, and every bill is proved.

    python -m tests.fault.campaign --runs 3 --seed 1 --output bench/faults.json

The rows say what each fault costs. The whole is repeated by its seed, one turn by its name: `--turn 1/0/nats`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from tests.fault.scenarios.absences import ABSENCES
from tests.fault.scenarios.clock_steps import CLOCK_STEPS
from tests.fault.scenarios.deliveries import DELIVERIES
from tests.fault.scenarios.hurt import Kind, platform_to_hurt
from tests.fault.scenarios.kills import KILLS
from tests.fault.scenarios.scenario import Scenario, under_load
from tests.infra.load import End
from tests.infra.tenant import Proof

OTHERS = [*ABSENCES, *CLOCK_STEPS, *DELIVERIES]
# Longer than all waits of a turn together that a working platform needs.
TURN_S_MAX = 900.0


@dataclass
class Row:
    """What one fault cost, over all runs; a run is one strike, such as one kill."""

    process: str
    runs: int = 0
    requests: int = 0
    refused: int = 0
    completed: int = 0
    cut: int = 0
    cut_tokens_heard: int = 0
    cut_tokens_billed: int = 0
    cut_tokens_made: int = 0
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

    def add(self, proof: Proof, seed: str) -> None:
        """Count a turn that was brought to its proof."""
        records = Counter(record.request_id for record in proof.ledger.records)
        log = proof.log
        self.runs += len(proof.recover_s)
        self.requests += len(log.calls)
        self.completed += len(log.ended(End.COMPLETED))
        self.refused += sum(1 for call in log.ended(End.REFUSED) if call.plan.valid)
        self.cut += len(log.ended(End.CUT, End.LEFT))
        self.cut_tokens_heard += proof.cut_tokens.heard
        self.cut_tokens_billed += proof.cut_tokens.billed
        self.cut_tokens_made += proof.cut_tokens.made
        self.lost += sum(1 for call in log.ended(End.COMPLETED) if not records[call.request_id])
        self.double += sum(count - 1 for count in records.values() if count > 1)
        self.core_ms_diff_max = max(self.core_ms_diff_max, proof.core_ms_diff)
        self.orphans += proof.orphans
        self.recover_s += proof.recover_s
        self.differences += [f"turn {seed}: {one}" for one in proof.differences]


@dataclass(frozen=True)
class Turn:
    """A scenario to be played once, under the load of one tenant."""

    scenario: Scenario
    seed: str
    strikes: int


def turns_of(scenarios: Sequence[Scenario], runs: int, others: int, strikes: int, seed: int) -> Iterator[Turn]:
    """Every part in turn, until each was killed `runs` times; then the other faults, `others` times each."""
    for number, begun in enumerate(range(0, runs, strikes)):
        for scenario in KILLS:
            if scenario in scenarios:
                yield Turn(scenario, f"{seed}/{number}/{scenario.name}", min(strikes, runs - begun))
    for kind in Kind:
        for number in range(others):
            for scenario in OTHERS:
                if scenario in scenarios and scenario.kind is kind:
                    yield Turn(scenario, f"{seed}/{number}/{scenario.name}", 1)


async def campaign(turns: Sequence[Turn], output: Path, hours_max: float) -> list[Row]:
    """Take every turn; the file is written after each, so that a cut campaign leaves its rows.

    A turn that cannot be brought to its proof is a difference of its scenario, and the next is taken on a new platform.
    The folder of a platform that differed is left there to be looked at.
    """
    rows = {turn.scenario.name: Row(turn.scenario.name) for turn in turns}
    waiting, end_s = list(reversed(turns)), monotonic() + hours_max * 3600
    while waiting and monotonic() < end_s:
        folder = Path(tempfile.mkdtemp(prefix="modelyard-faults-"))
        kind, differed, is_whole = waiting[-1].scenario.kind, False, True
        async with platform_to_hurt(folder, kind) as place:
            while is_whole and waiting and waiting[-1].scenario.kind is kind and monotonic() < end_s:
                turn = waiting.pop()
                row = rows[turn.scenario.name]
                known, began_s = len(row.differences), monotonic()
                try:
                    async with asyncio.timeout(TURN_S_MAX):
                        row.add(await under_load(turn.scenario, place, turn.seed, turn.strikes), turn.seed)
                except Exception as failed:  # noqa: BLE001 - whatever a broken platform causes is what we came for
                    row.differences.append(f"turn {turn.seed}: {_reason(failed)}")
                    is_whole = False
                new = row.differences[known:]
                differed = differed or bool(new)
                _say(row, monotonic() - began_s, len(waiting))
                for difference in new:
                    print(f"    {difference}; see {folder}", flush=True)
                output.write_text(json.dumps({"rows": [row.to_json() for row in rows.values()]}, indent=2) + "\n")
        if not differed:
            shutil.rmtree(folder)
    return list(rows.values())


def _reason(failed: BaseException) -> str:
    """What failed first, out of the group in which a task group hands it over."""
    while isinstance(failed, BaseExceptionGroup):
        failed = failed.exceptions[0]
    return f"{type(failed).__name__}: {failed}"


def _say(row: Row, turn_s: float, waiting: int) -> None:
    proved = "proved" if not row.differences else f"{len(row.differences)} DIFFERENCES"
    print(
        f"{row.runs} {row.process:<21} {turn_s:5.1f} s, {max(row.recover_s, default=0):5.1f} s to recover at most; "
        f"{row.requests} requests, {row.refused} refused, {row.completed} completed, {row.cut} cut; "
        f"of the cut ones {row.cut_tokens_heard} tokens heard, {row.cut_tokens_billed} billed, {row.cut_tokens_made} made; "
        f"lost {row.lost}, "
        f"double {row.double}, core-ms off by {row.core_ms_diff_max}, orphans {row.orphans}: {proved}; "
        f"{waiting} turns to go",
        flush=True,
    )


def main() -> None:
    """Exit status 1 when anything differs."""
    scenarios = {scenario.name: scenario for scenario in (*KILLS, *OTHERS)}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="kills of each part")
    parser.add_argument("--others", type=int, default=1, help="turns of each other fault")
    parser.add_argument("--strikes", type=int, default=10, help="kills under the load of one tenant")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--faults", nargs="*", choices=list(scenarios), default=list(scenarios))
    parser.add_argument("--turn", default="", metavar="SEED/NUMBER/FAULT", help="repeat one turn, as it was printed")
    parser.add_argument("--hours-max", type=float, default=24.0, help="begin no turn after this long")
    parser.add_argument("--output", type=Path, default=Path("bench/faults.json"))
    given = parser.parse_args()
    if given.turn:
        turns = [Turn(scenarios[given.turn.split("/")[2]], given.turn, given.strikes)]
    else:
        turns = list(
            turns_of([scenarios[name] for name in given.faults], given.runs, given.others, given.strikes, given.seed)
        )
        print(f"seed {given.seed}: `make faults RUNS={given.runs} SEED={given.seed}` repeats it", flush=True)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    rows = asyncio.run(campaign(turns, given.output, given.hours_max))
    sys.exit(1 if any(row.differences for row in rows) else 0)


if __name__ == "__main__":
    main()
