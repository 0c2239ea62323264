"""What models are listed and searched by, beside what their source says."""

from __future__ import annotations

from sqlalchemy import BigInteger
from sqlmodel import Field

from services.catalog.storage.tables.base import CatalogTable


class ModelTaskRow(CatalogTable, table=True):
    """A task that a model answers here: lists by task go through these, in the order of names."""

    __tablename__ = "model_task"
    # Name of `modelyard.catalog.v1.Task` without its prefix.
    task: str = Field(primary_key=True)
    model: str = Field(primary_key=True)


class SeenPriceRow(CatalogTable, table=True):
    """The serverless price of a model as billing quotes it now; billing owns it, this copy is for filters and orders."""

    __tablename__ = "seen_price"
    # Resource name of the model.
    model: str = Field(primary_key=True)
    # Billionths of a dollar for a million tokens; null where that meter is not priced.
    input_nanos: int | None = Field(sa_type=BigInteger)
    output_nanos: int | None = Field(sa_type=BigInteger)
