"""Publishers by what they are called."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import func, or_, select
from sqlmodel.ext.asyncio.session import AsyncSession

from services.catalog.storage.queries.pages import table
from services.catalog.storage.tables import PublisherRow


async def publisher_ids(session: AsyncSession, slugs: Mapping[str, str]) -> dict[str, str]:
    """Ids of the publishers that are there, by name.

    Args:
        slugs: The id that each name would get. A publisher that is called so comes first, in any case; then the one
            that has this id.
    """
    columns = table(PublisherRow).c
    lowered = {name.lower() for name in slugs}
    query = select(columns.id, columns.display_name).where(
        or_(func.lower(columns.display_name).in_(lowered), columns.id.in_(set(slugs.values())))
    )
    rows = list(await session.execute(query))
    by_name = {row.display_name.lower(): row.id for row in rows}
    ids = {row.id for row in rows}
    found = {name: by_name.get(name.lower(), slugs[name]) for name in slugs}
    return {name: publisher for name, publisher in found.items() if publisher in ids}
