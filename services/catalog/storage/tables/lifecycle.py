"""Overrides of promised notice, and which changes were announced."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field

from chassis.database import UtcTime
from services.catalog.storage.tables.base import CatalogTable


class NoticeOverrideRow(CatalogTable, table=True):
    """Somebody let a version end sooner than is promised; an audit record, of which only `use_time` changes."""

    __tablename__ = "notice_override"
    uid: str = Field(primary_key=True)
    model_version: str = Field(index=True)
    # Days as `YYYY-MM-DD`, empty where none is set: those it may have, and those it had.
    legacy_date: str
    deprecation_date: str
    retirement_date: str
    before_legacy_date: str
    before_deprecation_date: str
    before_retirement_date: str
    reason: str
    principal: str
    create_time: datetime = Field(sa_type=UtcTime)
    # When the version got these dates first.
    use_time: datetime | None = Field(sa_type=UtcTime)


class AnnouncedChangeRow(CatalogTable, table=True):
    """The last announcement of one change of one version."""

    __tablename__ = "announced_change"
    version_uid: str = Field(primary_key=True)
    change: int = Field(primary_key=True)
    # The day it was announced for, `YYYY-MM-DD`, and how many days ahead.
    day: str
    days_ahead: int
