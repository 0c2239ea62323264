"""Keep a copy of what billing charges for tokens, for filters and orders; what is quoted comes from billing itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from fractions import Fraction

from chassis.database import DATABASE_ERRORS, Database
from chassis.errors import Problem
from chassis.telemetry import get_logger
from services.catalog.domain.benchmarks import TokenPrice
from services.catalog.domain.search import NANO
from services.catalog.storage.queries.models import models, newest_change
from services.catalog.storage.queries.pages import take_turns
from services.catalog.storage.queries.prices import seen_prices
from services.catalog.storage.tables import SeenPriceRow

log = get_logger(__name__)


async def learn_prices(database: Database, prices: Mapping[str, TokenPrice]) -> int:
    """Store the prices of all models as they are now; return how many have changed.

    A model whose price changed counts as changed, so that indexes follow.
    """
    async with database.reader() as session:
        if not _differing(await seen_prices(session), prices):
            return 0
    async with database.unit_of_work() as uow:
        await take_turns(uow, database)
        known = await seen_prices(uow.session)
        changed = _differing(known, prices)
        sequence = await newest_change(uow.session)
        for count, row in enumerate((await models(uow.session, changed)).values(), start=1):
            row.change_sequence = sequence + count
            uow.session.add(row)
        for name in changed:
            if name in prices:
                await uow.session.merge(_row(name, prices[name]))
            else:
                await uow.session.delete(known[name])
    return len(changed)


async def watch_prices(
    database: Database, ask: Callable[[], Awaitable[Mapping[str, TokenPrice]]], poll_s: float
) -> None:
    """Learn prices for ever; while billing is away the last ones stay."""
    while True:
        try:
            await learn_prices(database, await ask())
        except (Problem, *DATABASE_ERRORS) as error:
            log.warning("prices wait", error=str(error), retry_s=poll_s)
        await asyncio.sleep(poll_s)


def _differing(known: Mapping[str, SeenPriceRow], prices: Mapping[str, TokenPrice]) -> list[str]:
    same = {
        name
        for name, price in prices.items()
        if name in known and known[name].model_dump() == _row(name, price).model_dump()
    }
    return sorted((set(known) | set(prices)) - same)


def _row(name: str, price: TokenPrice) -> SeenPriceRow:
    return SeenPriceRow(
        model=name,
        input_nanos=_nanos(price.input),
        output_nanos=_nanos(price.output),
    )


def _nanos(amount: Fraction | None) -> int | None:
    """Billionths; a filter looks no closer."""
    return None if amount is None else round(amount * NANO)
