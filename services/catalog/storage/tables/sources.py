"""Configured sources, their runs, and what they brought."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Index, LargeBinary
from sqlmodel import Field

from chassis.database import UtcTime
from services.catalog.storage.tables.base import CatalogTable


class SourceRow(CatalogTable, table=True):
    """A source. Who holds its lease syncs it; nobody else does."""

    __tablename__ = "source"
    id: str = Field(primary_key=True)
    uid: str = Field(unique=True)
    # Serialized modelyard.catalog.v1.ModelSource: what is configured, and nothing else.
    spec: bytes = Field(sa_type=LargeBinary)
    # Counts the changes of what is configured; the etag.
    revision: int
    # When it is synced next; None where only by hand.
    next_sync_time: datetime | None = Field(sa_type=UtcTime, index=True)
    # Counts its runs.
    run_count: int
    # The process that syncs it, and until when it may without renewing that.
    lease_owner: str
    lease_until: datetime | None = Field(sa_type=UtcTime)
    create_time: datetime = Field(sa_type=UtcTime)


class SyncRunRow(CatalogTable, table=True):
    """One reading of a source; at most one of a source is not ended."""

    __tablename__ = "sync_run"
    __table_args__ = (Index("ix_sync_run_source", "source", "number"),)
    uid: str = Field(primary_key=True)
    source: str
    # Position among the source's runs, dense from 1.
    number: int
    state: int = Field(index=True)
    trigger: str
    # Where reading goes on after a crash; empty at the beginning.
    cursor: str
    # Fields of modelyard.catalog.v1.SyncCounts.
    counts: dict[str, int] = Field(sa_type=JSON)
    # Fields of modelyard.catalog.v1.SyncFailure, the first ones.
    failures: list[dict[str, Any]] = Field(sa_type=JSON)
    detail: str
    resume_count: int
    create_time: datetime = Field(sa_type=UtcTime)
    start_time: datetime | None = Field(sa_type=UtcTime)
    end_time: datetime | None = Field(sa_type=UtcTime)


class SourceModelRow(CatalogTable, table=True):
    """A model that a source has listed."""

    __tablename__ = "source_model"
    __table_args__ = (Index("ix_source_model_run", "source", "run_number"),)
    source: str = Field(primary_key=True)
    model: str = Field(primary_key=True, index=True)
    # The newest run that listed it.
    run_number: int


class SeenDeploymentRow(CatalogTable, table=True):
    """A deployment as deploy announced it; a model that has a living one is not removed."""

    __tablename__ = "seen_deployment"
    __table_args__ = (Index("ix_seen_deployment_model", "model", "living"),)
    deployment_uid: str = Field(primary_key=True)
    # Resource names of the model and of the version.
    model: str
    model_version: str
    project_uid: str = Field(index=True)
    # Its resource name.
    deployment: str
    living: bool
    # Sequence of the event that said so.
    sequence: int
