"""What projects have decided: licences they accepted, policies they keep."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON
from sqlmodel import Field

from chassis.database import UtcTime
from services.catalog.storage.tables.base import CatalogTable


class LicenseAcceptanceRow(CatalogTable, table=True):
    """A project's acceptance of one licence text; written once, never changed."""

    __tablename__ = "license_acceptance"
    project_uid: str = Field(primary_key=True)
    # SHA-256 of the text.
    digest: str = Field(primary_key=True)
    license_id: str
    # The model it was accepted for.
    model: str
    principal: str
    accept_time: datetime = Field(sa_type=UtcTime)


class PolicyRow(CatalogTable, table=True):
    """What a project lets itself use; ids and resource names, sorted. Without a row everything is allowed."""

    __tablename__ = "policy"
    project_uid: str = Field(primary_key=True)
    allowed_collections: list[str] = Field(sa_type=JSON)
    allowed_publishers: list[str] = Field(sa_type=JSON)
    allowed_licenses: list[str] = Field(sa_type=JSON)
    blocked: list[str] = Field(sa_type=JSON)
    # Counts its changes; the etag.
    revision: int
    principal: str
    update_time: datetime = Field(sa_type=UtcTime)
