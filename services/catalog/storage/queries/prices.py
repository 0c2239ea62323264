"""Prices as billing was last heard to charge them."""

from __future__ import annotations

from sqlalchemy import select
from sqlmodel.ext.asyncio.session import AsyncSession

from services.catalog.storage.tables import SeenPriceRow


async def seen_prices(session: AsyncSession) -> dict[str, SeenPriceRow]:
    """All of them, by the model's name."""
    rows = (await session.execute(select(SeenPriceRow))).scalars()
    return {row.model: row for row in rows}
