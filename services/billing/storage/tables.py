"""Billing's tables. The ledger holds whole quantities; money is computed when it is read."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Index, LargeBinary, MetaData
from sqlmodel import Field, SQLModel

from chassis.database import UtcTime, chassis_tables


class BillingTable(SQLModel):
    """Base of billing's tables: they have a metadata of their own."""

    metadata = MetaData()


CHASSIS = chassis_tables(BillingTable.metadata)


class PriceRow(BillingTable, table=True):
    """One price of one version of one list; never updated."""

    __tablename__ = "price"
    price_version: str = Field(primary_key=True)
    resource: str = Field(index=True)
    kind: int
    currency: str
    # {meter number: decimal digits}
    amounts: dict[str, Any] = Field(sa_type=JSON)
    vcpus: int
    effective_time: datetime = Field(sa_type=UtcTime)
    source: str


class QuoteRow(BillingTable, table=True):
    """A price offered to one project for a while."""

    __tablename__ = "quote"
    uid: str = Field(primary_key=True)
    project_uid: str = Field(index=True)
    project: str
    kind: int
    model_version: str
    instance_type: str
    vcpus: int
    price_version: str
    create_time: datetime = Field(sa_type=UtcTime)
    expire_time: datetime = Field(sa_type=UtcTime)
    # Who answers for the model, as the catalog said then; empty where the quote is for a type alone.
    supported_by: str = ""
    support_contact: str = ""
    sla: str = ""


class UsageRow(BillingTable, table=True):
    """One call, recorded once; its id is the only dedupe key."""

    __tablename__ = "usage"
    __table_args__ = (
        Index("ix_usage_journal", "journal_id", "journal_seq"),
        Index("ix_usage_line", "project_uid", "period", "deployment_uid"),
        Index("ix_usage_project", "project_uid", "id"),
    )
    id: str = Field(primary_key=True)
    journal_id: str
    journal_seq: int = Field(sa_type=BigInteger)
    project_uid: str
    endpoint_uid: str
    deployment_uid: str
    model_version: str
    key_id: str
    price_version: str
    quote: str
    outcome: int
    occur_time: datetime = Field(sa_type=UtcTime)
    request_id: str
    traceparent: str = ""
    input_tokens: int | None = Field(sa_type=BigInteger)
    output_tokens: int | None = Field(sa_type=BigInteger)
    requests: int | None = Field(sa_type=BigInteger)
    audio_milliseconds: int | None = Field(default=None, sa_type=BigInteger)
    images: int | None = Field(default=None, sa_type=BigInteger)
    digest: str
    record_time: datetime = Field(sa_type=UtcTime)
    period: str
    correction: bool


class QuarantineRow(BillingTable, table=True):
    """A record that was not billed: a conflict with the one that was, or one that cannot be true."""

    __tablename__ = "quarantine"
    record_id: str = Field(primary_key=True)
    quarantined_digest: str = Field(primary_key=True)
    billed_digest: str
    project_uid: str = Field(index=True)
    journal_id: str = Field(index=True)
    journal_seq: int = Field(sa_type=BigInteger)
    why: str
    content: bytes = Field(sa_type=LargeBinary)
    record_time: datetime = Field(sa_type=UtcTime)


class RollupRow(BillingTable, table=True):
    """The running sum of one line of one period."""

    __tablename__ = "rollup"
    project_uid: str = Field(primary_key=True)
    period: str = Field(primary_key=True)
    deployment_uid: str = Field(primary_key=True)
    model_version: str = Field(primary_key=True)
    meter: int = Field(primary_key=True)
    price_version: str = Field(primary_key=True)
    key_id: str = Field(primary_key=True)
    quantity: int = Field(sa_type=BigInteger)
    record_count: int = Field(sa_type=BigInteger)


class InstanceRow(BillingTable, table=True):
    """What deploy said of one managed instance. Facts may come in any order, so `allocate_ms` may be unknown."""

    __tablename__ = "instance"
    instance_uid: str = Field(primary_key=True)
    project_uid: str = Field(default="", index=True)
    endpoint_uid: str = ""
    deployment_uid: str = ""
    model_version: str = ""
    instance_type: str = ""
    vcpus: int = 0
    price_version: str = ""
    quote: str = ""
    allocate_ms: int | None = Field(default=None, sa_type=BigInteger)
    through_ms: int = Field(default=0, sa_type=BigInteger)
    release_ms: int | None = Field(default=None, sa_type=BigInteger)
    # Start of the first window that is not posted; None before the first.
    open_from_ms: int | None = Field(default=None, sa_type=BigInteger)


class WindowRow(BillingTable, table=True):
    """A posted part of an instance's life within one UTC hour."""

    __tablename__ = "instance_window"
    __table_args__ = (Index("ix_window_line", "project_uid", "period", "deployment_uid"),)
    id: str = Field(primary_key=True)
    instance_uid: str = Field(index=True)
    project_uid: str
    deployment_uid: str
    model_version: str
    price_version: str
    start_ms: int = Field(sa_type=BigInteger)
    end_ms: int = Field(sa_type=BigInteger)
    core_ms: int = Field(sa_type=BigInteger)
    record_time: datetime = Field(sa_type=UtcTime)
    period: str
    correction: bool


class JournalRow(BillingTable, table=True):
    """How far one usage journal is committed without a gap."""

    __tablename__ = "journal"
    journal_id: str = Field(primary_key=True)
    committed_seq: int = Field(sa_type=BigInteger)


class PeriodRow(BillingTable, table=True):
    """A month; closed when its invoices are final."""

    __tablename__ = "period"
    period: str = Field(primary_key=True)
    closed: bool = False


class SeenProjectRow(BillingTable, table=True):
    """A project's name, as deploy published it; for reading bills while deploy is away."""

    __tablename__ = "seen_project"
    project_uid: str = Field(primary_key=True)
    project: str = Field(index=True)


class SeenDeploymentRow(BillingTable, table=True):
    """A deployment's resource name when it was first seen."""

    __tablename__ = "seen_deployment"
    deployment_uid: str = Field(primary_key=True)
    deployment: str
