"""Hardware that can be rented."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger
from sqlmodel import Field

from services.catalog.storage.tables.base import CatalogTable


class InstanceTypeRow(CatalogTable, table=True):
    """A hardware shape."""

    __tablename__ = "instance_type"
    id: str = Field(primary_key=True)
    vcpus: int
    memory_bytes: int = Field(sa_type=BigInteger)
    gpu_count: int
    gpu_model: str
    disk_bytes: int = Field(sa_type=BigInteger)
    provider: str
    source: dict[str, str] = Field(sa_type=JSON)
