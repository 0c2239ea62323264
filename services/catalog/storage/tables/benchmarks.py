"""Benchmarks: what was published of models, and how fast versions answered here."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, Index
from sqlmodel import Field

from chassis.database import UtcTime
from services.catalog.storage.tables.base import CatalogTable


class ScenarioRow(CatalogTable, table=True):
    """What a group of datasets is about."""

    __tablename__ = "scenario"
    id: str = Field(primary_key=True)
    display_name: str
    description: str


class DatasetRow(CatalogTable, table=True):
    """A benchmark, and what its numbers mean."""

    __tablename__ = "dataset"
    id: str = Field(primary_key=True)
    display_name: str
    scenario: str = Field(index=True)
    value_max: int
    higher_is_better: bool


class ScoreRow(CatalogTable, table=True):
    """One published result of a model."""

    __tablename__ = "score"
    __table_args__ = (Index("ix_score_model", "model", "dataset"),)
    id: str = Field(primary_key=True)
    # Who brought it: only that origin changes it.
    origin: str = Field(index=True)
    model: str
    dataset: str = Field(index=True)
    metric: str
    # Decimal digits as published.
    value: str
    # A number, or "none".
    shots: str
    date: str
    date_kind: str
    source: str
    detail: str


class PerformanceRunRow(CatalogTable, table=True):
    """How fast a version answered on an instance type."""

    __tablename__ = "performance_run"
    id: str = Field(primary_key=True)
    origin: str = Field(index=True)
    # Project that measured it, and alone sees it; empty where everybody does.
    project_uid: str = Field(index=True)
    model: str = Field(index=True)
    model_version: str
    instance_type: str
    # Resource name of the deployment that was measured; empty for shipped runs.
    deployment: str
    protocol: dict[str, int] = Field(sa_type=JSON)
    # Decimal digits, seconds and tokens per second.
    metrics: dict[str, str] = Field(sa_type=JSON)
    host: str
    run_time: datetime = Field(sa_type=UtcTime)
