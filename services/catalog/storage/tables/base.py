"""The metadata that all of the catalog's tables share."""

from __future__ import annotations

from sqlalchemy import MetaData
from sqlmodel import SQLModel

from chassis.database import chassis_tables


class CatalogTable(SQLModel):
    """Base of the catalog's tables: they have a metadata of their own."""

    metadata = MetaData()


CHASSIS = chassis_tables(CatalogTable.metadata)
