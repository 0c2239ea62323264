"""Collections, publishers, models and their versions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Index, LargeBinary, text
from sqlmodel import Field

from chassis.database import UtcTime
from services.catalog.storage.tables.base import CatalogTable


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


_OWN = text("project_uid <> ''")


class ModelRow(CatalogTable, table=True):
    """One model; `name` is its resource name. Its card lies beside it, so that lists do not read it."""

    __tablename__ = "model"
    # Each index is another page to change for every model of a large import, so there are few: lists read the first in
    # the order of names and leave out what they are not narrowed to without looking at rows; a projection goes by
    # change, and counts what it should hold.
    __table_args__ = (
        Index("ix_model_listed", "name", "collection", "usability", "project_uid"),
        Index("ix_model_change", "change_sequence", "withdrawn"),
        Index(
            "ix_model_withdrawn", "update_time", sqlite_where=text("withdrawn = 1"), postgresql_where=text("withdrawn")
        ),
        Index("ix_model_own", "project_uid", "name", sqlite_where=_OWN, postgresql_where=_OWN),
    )
    name: str = Field(primary_key=True)
    uid: str = Field(unique=True)
    # Where it came from: only that source changes it.
    source: str = Field(index=True)
    # Project it belongs to; empty where everybody sees it.
    project_uid: str
    publisher: str
    collection: str
    display_name: str
    license_id: str
    # Its text, by digest; empty where it is not shipped.
    license_digest: str
    usability: str
    usability_detail: str
    # The configured source through which an external provider answers for it, empty where none does; and where:
    # serialized modelyard.catalog.v1.ProviderTarget.
    provider_source: str = Field(default="", index=True)
    provider_target: bytes = Field(default=b"", sa_type=LargeBinary)
    # The rest of what its source says: `ModelRecord` without its versions and long texts.
    facts: dict[str, Any] = Field(sa_type=JSON)
    latest_version: str
    # It left its source, or its publisher archived it: listed for those who have it, closed to new deployments.
    withdrawn: bool
    # Digest of all its source says, versions included.
    digest: str
    # Counts the changes of all models together, dense under the lock that writers take.
    change_sequence: int = Field(sa_type=BigInteger)
    # Number of its first change: while that is its last one too, no index has seen it.
    first_sequence: int = Field(default=0, sa_type=BigInteger)
    create_time: datetime = Field(sa_type=UtcTime)
    update_time: datetime = Field(sa_type=UtcTime)


class ModelTextRow(CatalogTable, table=True):
    """The long texts of a model, as they came."""

    __tablename__ = "model_text"
    # By uid, which grows: the texts of new models lie behind those of older ones, whatever their names.
    model_uid: str = Field(primary_key=True)
    card: str
    notes: str
    evaluation: str


class LicenseTextRow(CatalogTable, table=True):
    """The text of a licence, once for all models under it."""

    __tablename__ = "license_text"
    digest: str = Field(primary_key=True)
    text: str


DATE_COLUMNS = (
    "legacy_date",
    "deprecation_date",
    "retirement_date",
    "fine_tune_deprecation_date",
    "fine_tune_retirement_date",
)


def _where_set(column: str) -> Index:
    """Few versions have dates, and those are looked for often."""
    is_set = text(f"{column} != ''")
    return Index(f"ix_version_{column}", column, sqlite_where=is_set, postgresql_where=is_set)


class VersionRow(CatalogTable, table=True):
    """One version; `name` is its resource name. What `identity` covers never changes."""

    __tablename__ = "version"
    __table_args__ = tuple(_where_set(column) for column in DATE_COLUMNS)
    name: str = Field(primary_key=True)
    uid: str = Field(unique=True)
    # Begins the name too, which is how the versions of a model are found.
    model: str
    # Orders the versions of a model.
    position: int
    # Digest of its files, how it is served and what its publisher wrote.
    identity: str
    artifacts: list[dict[str, Any]] = Field(sa_type=JSON)
    serving: dict[str, Any] | None = Field(sa_type=JSON)
    # The rest of what its source says of it: `VersionRecord` without what has a column or a row of its own.
    facts: dict[str, Any] = Field(sa_type=JSON)
    preview: bool
    # Days as `YYYY-MM-DD`, empty where none is set.
    legacy_date: str
    deprecation_date: str
    retirement_date: str
    fine_tune_deprecation_date: str
    fine_tune_retirement_date: str
    # Resource name of the model to move to.
    replacement: str
    # The stage that was last announced.
    stage: int
    # Counts the version's events.
    event_sequence: int
    create_time: datetime = Field(sa_type=UtcTime)


class VersionOriginRow(CatalogTable, table=True):
    """A version as its publisher wrote it, to be given back; beside the version, so that nothing else reads it."""

    __tablename__ = "version_origin"
    # By uid, which grows: what an import adds lies behind what is there, whatever the versions' names.
    version_uid: str = Field(primary_key=True)
    # JSON, deflated by zlib.
    document: bytes
