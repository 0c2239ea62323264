"""What is stored of a hub's models."""

from __future__ import annotations

from sqlalchemy import select
from sqlmodel.ext.asyncio.session import AsyncSession

from services.catalog.storage.queries.models import of_model
from services.catalog.storage.tables import VersionRow


async def versions_of(session: AsyncSession, model: str) -> list[VersionRow]:
    """Every version of a model, in any order."""
    query = select(VersionRow).where(*of_model(model))
    return list((await session.execute(query)).scalars())
