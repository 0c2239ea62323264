"""A project's own files: on their way, in the store, and in versions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Index
from sqlmodel import Field

from chassis.database import UtcTime
from services.catalog.storage.tables.base import CatalogTable


class UploadRow(CatalogTable, table=True):
    """One file on its way into the store."""

    __tablename__ = "upload"
    __table_args__ = (
        Index("ix_upload_project", "project_uid", "uid"),
        Index("ix_upload_state", "state", "update_time"),
    )
    uid: str = Field(primary_key=True)
    project_uid: str
    principal: str
    size_bytes: int = Field(sa_type=BigInteger)
    sha256: str
    # Parts without a gap from the beginning.
    received_bytes: int = Field(sa_type=BigInteger)
    state: int
    detail: str
    create_time: datetime = Field(sa_type=UtcTime)
    update_time: datetime = Field(sa_type=UtcTime)
    # Until when the process that checks it has it; None while none has.
    claimed_until: datetime | None = Field(sa_type=UtcTime)


class UploadPartRow(CatalogTable, table=True):
    """A part that counts: the first one that came for its place. Others of that place lie in the store and go with it."""

    __tablename__ = "upload_part"
    upload_uid: str = Field(primary_key=True)
    start_bytes: int = Field(primary_key=True, sa_type=BigInteger)
    size_bytes: int
    # Its name among the upload's parts in the store.
    part: str


class ContentRow(CatalogTable, table=True):
    """A content of the artifact store, once for all who have it."""

    __tablename__ = "content"
    sha256: str = Field(primary_key=True)
    size_bytes: int = Field(sa_type=BigInteger)
    format: str
    # What its head says, by its format.
    facts: dict[str, Any] = Field(sa_type=JSON)
    # On its way into the store, in it, or on its way out.
    state: int = Field(index=True)
    create_time: datetime = Field(sa_type=UtcTime)


class ProjectContentRow(CatalogTable, table=True):
    """A project has uploaded a content, all of it: knowing a digest is not having the file."""

    __tablename__ = "project_content"
    project_uid: str = Field(primary_key=True)
    sha256: str = Field(primary_key=True, index=True)
    # When it was uploaded last.
    upload_time: datetime = Field(sa_type=UtcTime)


class VersionContentRow(CatalogTable, table=True):
    """A version of a project's own model holds a content."""

    __tablename__ = "version_content"
    version_uid: str = Field(primary_key=True)
    sha256: str = Field(primary_key=True, index=True)
    project_uid: str
