"""The catalog's tables."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, MetaData
from sqlmodel import Field, SQLModel

from chassis.database import UtcTime, chassis_tables


class CatalogTable(SQLModel):
    """Base of the catalog's tables: they have a metadata of their own."""

    metadata = MetaData()


CHASSIS = chassis_tables(CatalogTable.metadata)


class CollectionRow(CatalogTable, table=True):
    """A group of models with one rule of support."""

    __tablename__ = "collection"
    id: str = Field(primary_key=True)
    display_name: str
    kind: str
    description: str


class PublisherRow(CatalogTable, table=True):
    """An organisation that publishes models."""

    __tablename__ = "publisher"
    id: str = Field(primary_key=True)
    display_name: str
    website: str


class ModelRow(CatalogTable, table=True):
    """One model; `name` is its resource name."""

    __tablename__ = "model"
    name: str = Field(primary_key=True)
    uid: str = Field(unique=True)
    publisher: str = Field(index=True)
    collection: str = Field(index=True)
    display_name: str
    summary: str
    card: str
    license_id: str
    license_text: str
    tasks: list[str] = Field(sa_type=JSON)
    deployment_options: list[str] = Field(sa_type=JSON)
    usability: str = Field(index=True)
    usability_detail: str
    languages: list[str] = Field(sa_type=JSON)
    tags: list[str] = Field(sa_type=JSON)
    sources: list[dict[str, str]] = Field(sa_type=JSON)
    parameter_count: int = Field(sa_type=BigInteger)
    context_tokens: int
    latest_version: str
    etag: str
    create_time: datetime = Field(sa_type=UtcTime)


class VersionRow(CatalogTable, table=True):
    """One version; `name` is its resource name. Its artifacts and serving facts never change."""

    __tablename__ = "version"
    name: str = Field(primary_key=True)
    uid: str = Field(unique=True)
    model: str = Field(index=True)
    # Counts the versions of a model in the order they came.
    position: int
    artifacts: list[dict[str, Any]] = Field(sa_type=JSON)
    serving: dict[str, Any] | None = Field(sa_type=JSON)
    preview: bool
    legacy_date: str
    deprecation_date: str
    retirement_date: str
    # The stage that was last announced.
    stage: int
    # Counts the version's events.
    event_sequence: int
    create_time: datetime = Field(sa_type=UtcTime)


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
