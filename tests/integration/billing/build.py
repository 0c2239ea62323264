"""Facts, prices and callers for tests of billing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select

from chassis.access import Caller
from chassis.access.caller import CallerKind, set_current_caller
from chassis.clock import Clock
from chassis.database import Database
from chassis.ids import derived_uid
from services.billing.domain.meters import Meter
from services.billing.domain.prices import OfferKind, Price
from services.billing.domain.usage import UsageFact
from services.billing.main import MIGRATIONS
from services.billing.storage.ledger import table
from services.billing.storage.tables import CHASSIS, RollupRow
from services.billing.usecases import prices as price_lists
from services.billing.usecases.post_instance_facts import (
    Allocation,
    post_allocation,
    post_observation,
    post_release,
)
from tests.clock import START
from tests.conftest import DatabaseFactory

PROJECT = derived_uid("test", "project")
OTHER_PROJECT = derived_uid("test", "other project")
ENDPOINT = derived_uid("test", "endpoint")
DEPLOYMENT = derived_uid("test", "deployment")
JOURNAL = derived_uid("test", "journal")
INSTANCE = derived_uid("test", "instance")
MODEL = "publishers/acme/models/talker"
TOKENS_PRICE = "test@1/talker"
HOUR_PRICE = "test@1/small"


def record_id(number: int, at: datetime = START) -> str:
    """A UUIDv7 of a moment; equal numbers give equal ids."""
    milliseconds = int(at.timestamp() * 1000)
    text = f"{milliseconds:012x}7{number & 0xFFF:03x}8{number:015x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def usage(number: int = 1, **changes: Any) -> UsageFact:
    """The record of one call, number `number` of its journal, one second after the one before."""
    fact = UsageFact(
        id=record_id(number),
        journal_id=JOURNAL,
        journal_seq=number,
        project_uid=PROJECT,
        endpoint_uid=ENDPOINT,
        deployment_uid=DEPLOYMENT,
        model_version=f"{MODEL}/versions/1",
        key_id="k1",
        price_version=TOKENS_PRICE,
        quote="projects/shop/quotes/q1",
        outcome=1,
        occur_time=START + timedelta(seconds=number),
        quantities=((Meter.INPUT_TOKENS, 10), (Meter.OUTPUT_TOKENS, 3)),
        request_id=f"r{number}",
    )
    return replace(fact, **changes)


def allocation(**changes: Any) -> Allocation:
    """An instance of two cores, rented at START."""
    fact = Allocation(
        instance_uid=INSTANCE,
        project_uid=PROJECT,
        endpoint_uid=ENDPOINT,
        deployment_uid=DEPLOYMENT,
        deployment="projects/shop/endpoints/talk/deployments/blue",
        model_version=f"{MODEL}/versions/1",
        instance_type="instanceTypes/small",
        vcpus=2,
        price_version=HOUR_PRICE,
        quote="projects/shop/quotes/q2",
        allocate_time=START,
    )
    return replace(fact, **changes)


def tokens_price(version: str = TOKENS_PRICE, *, amount: str = "0.3", effective: datetime | None = None) -> Price:
    """A price of a model's tokens."""
    return Price(
        price_version=version,
        resource=MODEL,
        kind=OfferKind.SERVERLESS,
        currency="USD",
        amounts={Meter.INPUT_TOKENS: Decimal(amount), Meter.OUTPUT_TOKENS: Decimal("0.6")},
        vcpus=0,
        effective_time=effective or datetime(2026, 1, 1, tzinfo=UTC),
        source="a test",
    )


def hour_price(version: str = HOUR_PRICE, *, vcpus: int = 2) -> Price:
    """A price of an instance type's hour."""
    return Price(
        price_version=version,
        resource="instanceTypes/small",
        kind=OfferKind.MANAGED,
        currency="USD",
        amounts={Meter.CORE_MILLISECONDS: Decimal("0.096")},
        vcpus=vcpus,
        effective_time=datetime(2026, 1, 1, tzinfo=UTC),
        source="a test",
    )


async def ledger_with_prices(make_database: DatabaseFactory, *prices: Price) -> Database:
    """A migrated database that knows the test's prices."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await price_lists.store_prices(database, prices or (tokens_price(), hour_price()))
    return database


async def allocate(database: Database, clock: Clock, **changes: Any) -> None:
    async with database.unit_of_work() as uow:
        await post_allocation(uow, database, clock, allocation(**changes))


async def observe(database: Database, clock: Clock, through: datetime, instance_uid: str = INSTANCE) -> None:
    async with database.unit_of_work() as uow:
        await post_observation(uow, database, clock, instance_uid, through)


async def release(database: Database, clock: Clock, at: datetime, instance_uid: str = INSTANCE) -> None:
    async with database.unit_of_work() as uow:
        await post_release(uow, database, clock, instance_uid, at)


async def rollups(database: Database) -> dict[tuple[Any, ...], tuple[int, int]]:
    """Every rollup: its key to (quantity, record count)."""
    async with database.reader() as session:
        rows = (await session.execute(select(RollupRow))).scalars()
        return {
            (
                row.project_uid,
                row.period,
                row.deployment_uid,
                row.model_version,
                row.meter,
                row.price_version,
                row.key_id,
            ): (row.quantity, row.record_count)
            for row in rows
        }


async def tokens(database: Database) -> int:
    """Input tokens over all rollups."""
    return sum(
        quantity for key, (quantity, _) in (await rollups(database)).items() if key[4] == int(Meter.INPUT_TOKENS)
    )


async def rows_of(database: Database, row_class: Any) -> list[Any]:
    """Every row of a table."""
    async with database.reader() as session:
        return list((await session.execute(select(row_class))).scalars())


async def count_of(database: Database, row_class: Any) -> int:
    async with database.reader() as session:
        return int((await session.execute(select(func.count()).select_from(table(row_class)))).scalar_one())


async def outbox(database: Database, kind: str, subject: str = "") -> list[Any]:
    """What waits to be published, oldest first."""
    rows = database.tables.outbox
    query = select(rows).where(rows.c.kind == kind, rows.c.subject.startswith(subject)).order_by(rows.c.row_number)
    async with database.reader() as session:
        return list((await session.execute(query)).all())


def call_as(project_uid: str = PROJECT, project: str = "shop") -> None:
    """The rest of this test calls as a user of a project."""
    set_current_caller(Caller("user:ann", CallerKind.USER, project_uid=project_uid, project=project, role=5))


def shuffled(facts: Iterable[UsageFact], seed: int) -> list[UsageFact]:
    """The facts in an order of their ids' digests."""
    return sorted(facts, key=lambda fact: derived_uid("order", str(seed), fact.id))
