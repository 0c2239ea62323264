"""How fast the ledger takes usage: from the first message sent until the rollups hold exactly what was sent."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

from modelyard.type.v1 import money_pb2, usage_pb2
from sqlalchemy import func, select

from bench.options import Options
from bench.platform import BenchedPlatform, benched_platform
from bench.postgres import running_postgres
from bench.results import Mark, Result, of_runs
from chassis.bus import Bus
from chassis.database import Database
from chassis.events import Event, published_event
from chassis.ids import new_uid
from services.billing.domain.meters import CALL_METERS
from services.billing.storage.ledger import table
from services.billing.storage.tables import CHASSIS, JournalRow, RollupRow

PROJECTS = 50
EVENTS_PER_S_MIN = 10_000
# As inference sends them.
RECORDS_PER_MESSAGE = 500
SENDS_AT_ONCE = 16
COMMITTED_S_MAX = 120.0
# Deployments of each project: every record another line of the bill, or some records a line.
SPREADS = {"": 1000, "_20_deployments_each": 20}


@dataclass(frozen=True)
class _Usage:
    """Messages of one journal, and what the ledger must hold of them."""

    journal_id: str
    messages: list[Event]
    price_version: str
    records: int
    sums: dict[int, int]


async def measure(options: Options) -> list[Result]:
    """Both databases, at both spreads."""
    results: list[Result] = []
    for kind in ("postgresql", "sqlite"):
        async with _platform_on(kind, options) as (platform, url):
            for spread, deployments in SPREADS.items():
                records = options.count(30_000, 10_000)
                per_s = [
                    records / await _ingest(platform, url, _make_usage(records, deployments))
                    for _ in range(options.runs)
                ]
                results.append(
                    of_runs(
                        f"billing_events_per_s_{kind}{spread}",
                        per_s,
                        "record/s",
                        f"1 billing process, fsync on, {os.cpu_count()} cores with the broker, the database and the "
                        f"sender; {records:,} distinct records a run in messages of {RECORDS_PER_MESSAGE}, over "
                        f"{PROJECTS} projects × {deployments:,} deployments × {len(CALL_METERS)} meters (a call has no "
                        "fourth: core time comes from instances)",
                        Mark(at_least=EVENTS_PER_S_MIN) if not spread else None,
                        digits=4,
                    )
                )
    return results


@asynccontextmanager
async def _platform_on(kind: str, options: Options) -> AsyncIterator[tuple[BenchedPlatform, str]]:
    folder = options.new_folder(f"billing-{kind}")
    if kind == "sqlite":
        async with benched_platform(folder) as platform:
            yield platform, f"sqlite+aiosqlite:///{platform.platform.home.service_data('billing') / 'billing.db'}"
        return
    async with (
        running_postgres() as url,
        benched_platform(folder, {"MODELYARD_BILLING_DATABASE_URL": url}) as platform,
    ):
        yield platform, url


def _make_usage(records: int, deployments: int) -> _Usage:
    """Made and encoded before the clock starts."""
    rng = random.Random(records + deployments)  # noqa: S311 - load, not a secret
    journal_id, price_version = new_uid(), f"bench-{new_uid()}"
    projects = [new_uid() for _ in range(PROJECTS)]
    lines = [(project, new_uid(), new_uid()) for project in projects for _ in range(deployments)]
    rng.shuffle(lines)
    sums = dict.fromkeys(map(int, CALL_METERS), 0)
    batch: list[usage_pb2.UsageRecord] = []
    messages: list[Event] = []
    for seq in range(1, records + 1):
        project_uid, endpoint_uid, deployment_uid = lines[seq % len(lines)]
        amounts = {int(meter): rng.randint(1, 4000) for meter in CALL_METERS}
        for meter, value in amounts.items():
            sums[meter] += value
        record = usage_pb2.UsageRecord(
            id=new_uid(),
            journal_id=journal_id,
            journal_seq=seq,
            project_uid=project_uid,
            endpoint_uid=endpoint_uid,
            deployment_uid=deployment_uid,
            model_version="publishers/bench/models/noop/versions/1",
            key_id=project_uid[-12:],
            price_version=price_version,
            outcome=usage_pb2.OUTCOME_COMPLETED,
            request_id=new_uid(),
            quantities=[
                money_pb2.Quantity(meter=money_pb2.Meter.ValueType(meter), value=value)
                for meter, value in amounts.items()
            ],
        )
        record.occur_time.GetCurrentTime()
        batch.append(record)
        if len(batch) == RECORDS_PER_MESSAGE or seq == records:
            messages.append(_message(journal_id, batch))
            batch = []
    return _Usage(journal_id, messages, price_version, records, sums)


def _message(journal_id: str, records: list[usage_pb2.UsageRecord]) -> Event:
    return published_event(
        "inference",
        "usage",
        "recorded",
        usage_pb2.UsageBatch(records=records),
        project_uid=None,
        aggregate_uid=journal_id,
        sequence=records[0].journal_seq,
        time=datetime.now(UTC),
    )


async def _ingest(platform: BenchedPlatform, url: str, usage: _Usage) -> float:
    """Seconds until the ledger holds it all.

    Raises:
        TimeoutError: it does not within COMMITTED_S_MAX.
    """
    home = platform.platform.home
    inference = await Bus.connect(platform.addresses.nats, home.nats_credential("inference"), "inference")
    database = Database(url, CHASSIS)
    try:
        began_at = monotonic()
        async with asyncio.timeout(COMMITTED_S_MAX):
            await _send(inference, usage.messages)
            while await _committed(database, usage.journal_id) < usage.records:
                await asyncio.sleep(0.02)
            while await _sums(database, usage.price_version) != usage.sums:
                await asyncio.sleep(0.02)
        return monotonic() - began_at
    finally:
        await database.dispose()
        await inference.close()


async def _send(bus: Bus, messages: list[Event]) -> None:
    waiting = iter(messages)

    async def send() -> None:
        for message in waiting:
            await bus.publish(message, timeout_s=30.0)

    await asyncio.gather(*(send() for _ in range(SENDS_AT_ONCE)))


async def _committed(database: Database, journal_id: str) -> int:
    """The watermark costs less to look at than the rollups."""
    async with database.reader() as session:
        row = await session.get(JournalRow, journal_id)
        return row.committed_seq if row is not None else 0


async def _sums(database: Database, price_version: str) -> dict[int, int]:
    rollup = table(RollupRow)
    query = (
        select(rollup.c.meter, func.sum(rollup.c.quantity))
        .where(rollup.c.price_version == price_version)
        .group_by(rollup.c.meter)
    )
    async with database.reader() as session:
        return {int(meter): int(quantity) for meter, quantity in await session.execute(query)}
