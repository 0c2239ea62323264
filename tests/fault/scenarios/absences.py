"""What the platform stands on goes away under load: the broker for a minute, the database in a transaction, the disk."""

from __future__ import annotations

import resource
import time
from collections import Counter
from functools import partial

import psutil
from modelyard.inference.v1 import operations_pb2

from tests.fault.scenarios.hurt import Kind
from tests.fault.scenarios.scenario import Round, Scenario
from tests.infra.load import ClientLog, End
from tests.infra.tenant import READY_S_MAX, TARGETS, until
from tests.infra.witnesses import Fault

# Over REST and over gRPC.
JOURNAL_FULL = ("503 journal_full", "UNAVAILABLE JOURNAL_FULL")
REFUSALS_MIN = 5
RESTARTS = 3


async def nats_away(played: Round, away_s: int) -> None:
    """nats-server is killed and comes again only after a while; meanwhile every call is answered.

    Its supervisor starts another program in its place, which ends after that while.
    """
    await played.scale(0)
    nats = played.place.platform.children["nats"]
    assert nats.process is not None
    killed, command = nats.process.pid, nats.command
    nats.command = ["sleep", str(away_s)]
    fault = played.goes_wrong("NATS away")
    nats.process.kill()

    async def away() -> bool:
        return nats.process is not None and nats.process.pid != killed

    await until(away, "something else runs in the place of NATS", s_max=READY_S_MAX)
    stand_in, nats.command = nats.process.pid, command

    async def back() -> bool:
        return nats.process is not None and nats.process.pid != stand_in

    await played.log.until(
        lambda: played.log.completed_since(fault.at_s) >= TARGETS.ways(), "calls go on without NATS", s_max=away_s
    )
    assert not await back(), "NATS came back before every way of calling was tried without it"
    await until(back, "NATS is started again", s_max=away_s + READY_S_MAX)
    back_s = time.monotonic()
    played.differences += [
        f"{call} while NATS was away"
        for call in played.log.ended(End.REFUSED)
        if call.plan.valid and call.begun_s > fault.at_s
    ]
    await played.tenant.scale(1)
    await played.recovered(back_s)


async def database_restarted(played: Round) -> None:
    """PostgreSQL ends at once while billing is in a transaction, again and again."""
    place = played.place
    assert place.postgres is not None
    for number in range(RESTARTS):
        await played.scale(number)
        at_s = await place.postgres.restart_mid_transaction(place.database_url)
        played.faults.append(Fault("PostgreSQL restarted", at_s, time.time_ns() // 1_000_000))
        await played.recovered(at_s)


async def disk_full(played: Round) -> None:
    """The kernel refuses what inference writes to its journal (RLIMIT_FSIZE), first all of it, then half a frame on.

    New work is refused with the journal's reason alone, and taken again when there is room. Calls under way hear their
    ends then, so it is other clients that ask meanwhile.
    """
    child, tenant = played.place.platform.children["inference"], played.tenant
    journal_dir = tenant.data_dir / "inference" / "journal"
    for number in range(2):
        await played.scale(number)
        assert child.process is not None
        inference = psutil.Process(child.process.pid)
        newest = max(journal_dir.glob("*.journal"))
        room = 0 if number == 0 else newest.stat().st_size + played.rng.randint(1, 60)
        fault = played.goes_wrong("disk full")
        inference.rlimit(psutil.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        async with tenant.load(str(played.rng.random())).running() as others:
            try:
                await others.until(
                    partial(_refused_in_both_ways, others),
                    f"new work is refused {REFUSALS_MIN} times in each of two ways",
                    s_max=READY_S_MAX,
                )
                state = await tenant.modelyard.operations.GetDataPathState(operations_pb2.GetDataPathStateRequest())
            finally:
                inference.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            room_s = time.monotonic()
        played.log.calls += others.calls
        if "File too large" not in state.refusing:
            played.differences.append(f"the data path does not say why it refuses: {state.refusing!r}")
        played.differences += [
            f"{call}, and not for the journal's sake"
            for call in played.log.ended(End.REFUSED)
            if call.plan.valid and fault.at_s < call.begun_s < room_s and call.status not in JOURNAL_FULL
        ]
        await played.recovered(room_s)


def _refused_in_both_ways(log: ClientLog) -> bool:
    refused = Counter(call.status for call in log.ended(End.REFUSED))
    return all(refused[status] >= REFUSALS_MIN for status in JOURNAL_FULL)


# For tests, which have less time than a campaign.
NATS_AWAY_BRIEFLY = Scenario("NATS away 25 s", partial(nats_away, away_s=25))
ABSENCES = [
    Scenario("NATS away 60 s", partial(nats_away, away_s=60)),
    Scenario("PostgreSQL restarted", database_restarted, Kind.POSTGRESQL),
    Scenario("disk full", disk_full),
]
