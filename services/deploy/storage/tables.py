"""Deploy's tables: what is wanted (endpoints, deployments) and what is observed (instances)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, BigInteger, Index, LargeBinary, MetaData, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from chassis.database import UtcTime, chassis_tables
from services.deploy.domain.deployments import DeploymentState


class DeployTable(SQLModel):
    """Base of deploy's tables: they have a metadata of their own."""

    metadata = MetaData()


CHASSIS = chassis_tables(DeployTable.metadata)


def _unique_among(name: str, condition: str, *columns: str) -> Index:
    """Unique among the rows that meet a condition: a name is free again once its bearer is gone."""
    return Index(name, *columns, unique=True, sqlite_where=text(condition), postgresql_where=text(condition))


class ProjectRow(DeployTable, table=True):
    """A tenant."""

    __tablename__ = "project"
    uid: str = Field(primary_key=True)
    name: str = Field(unique=True)
    # {principal: role number}
    members: dict[str, int] = Field(sa_type=JSON)
    revision: int
    create_time: datetime = Field(sa_type=UtcTime)


class ApiKeyRow(DeployTable, table=True):
    """An inference key; the secret itself is nowhere."""

    __tablename__ = "api_key"
    id: str = Field(primary_key=True)
    project_uid: str = Field(index=True)
    kind: int
    # Endpoint uid of a primary or secondary key; empty for project keys.
    endpoint_uid: str
    # Endpoint uids a project key may call; empty for all.
    endpoint_uids: list[str] = Field(sa_type=JSON)
    secret_sha256: bytes = Field(sa_type=LargeBinary)
    expire_time: datetime | None = Field(sa_type=UtcTime)
    revoke_time: datetime | None = Field(sa_type=UtcTime)
    create_time: datetime = Field(sa_type=UtcTime)
    revision: int


class EndpointRow(DeployTable, table=True):
    """A stable address. A deleted one stays as a row, so that its uid is never mistaken; its name is free again."""

    __tablename__ = "endpoint"
    __table_args__ = (
        Index("ix_endpoint_name", "project_uid", "name"),
        _unique_among("uq_endpoint_living_name", "not deleted", "project_uid", "name"),
    )
    uid: str = Field(primary_key=True)
    project_uid: str
    project: str
    name: str
    kind: int
    # {deployment name: percent}
    traffic: dict[str, int] = Field(sa_type=JSON)
    deleted: bool
    revision: int
    # What the routes bucket holds: its sequence, and a digest to see when it must change.
    route_sequence: int
    route_digest: str
    create_time: datetime = Field(sa_type=UtcTime)


class DeploymentRow(DeployTable, table=True):
    """One model version at a size behind an endpoint; a deleted one stays as a row."""

    __tablename__ = "deployment"
    __table_args__ = (
        Index("ix_deployment_endpoint", "endpoint_uid", "name"),
        _unique_among("uq_deployment_living_name", f"state <> {DeploymentState.DELETED:d}", "endpoint_uid", "name"),
    )
    uid: str = Field(primary_key=True)
    endpoint_uid: str
    project_uid: str = Field(index=True)
    # Whole resource name.
    resource: str
    name: str
    model_version: str = Field(index=True)
    instance_type: str
    vcpus: int
    memory_bytes: int = Field(sa_type=BigInteger)
    instance_count: int
    quote: str
    price_version: str
    # Serialized modelyard.catalog.v1.ModelVersion as it was when the deployment was created.
    version_facts: bytes = Field(sa_type=LargeBinary)
    retire_time: datetime | None = Field(sa_type=UtcTime)
    # Pool the deployment is served from; empty for managed ones, and where an external provider serves it.
    pool_uid: str = Field(index=True)
    state: int = Field(index=True)
    state_detail: str
    deleting: bool
    # Instances that ended by themselves since the last one was ready.
    failed_starts: int
    # Counts what is wanted; the etag.
    wanted_revision: int
    # Counts every change, also observed ones.
    revision: int
    create_time: datetime = Field(sa_type=UtcTime)


class TrialRow(DeployTable, table=True):
    """A model that is tried: its endpoint stays while somebody uses it."""

    __tablename__ = "trial"
    endpoint_uid: str = Field(primary_key=True)
    model_version: str
    use_time: datetime = Field(sa_type=UtcTime, index=True)


class SeenVersionRow(DeployTable, table=True):
    """The newest that was heard of a version; who hears of it and who deploys it take turns on this row."""

    __tablename__ = "seen_version"
    uid: str = Field(primary_key=True)
    model_version: str
    # Of the event in `change`; 0 while nothing was heard.
    sequence: int
    # Serialized modelyard.catalog.v1.VersionLifecycleChanged; empty while nothing was heard.
    change: bytes = Field(sa_type=LargeBinary)


class NoticeRow(DeployTable, table=True):
    """A project was told that a change is ahead of the version behind a deployment; written once.

    At most one for each change and announcement of a deployment, so their number follows that of deployments.
    """

    __tablename__ = "notice"
    uid: str = Field(primary_key=True)
    project_uid: str = Field(index=True)
    deployment_uid: str
    deployment: str
    model_version: str
    # A number of modelyard.catalog.v1.VersionChange.
    change: int
    change_time: datetime = Field(sa_type=UtcTime)
    days_ahead: int
    replacement: str
    create_time: datetime = Field(sa_type=UtcTime)


class PoolRow(DeployTable, table=True):
    """The shared warm instance of one model version."""

    __tablename__ = "pool"
    __table_args__ = (UniqueConstraint("model_version"),)
    uid: str = Field(primary_key=True)
    model_version: str
    version_facts: bytes = Field(sa_type=LargeBinary)
    vcpus: int
    memory_bytes: int = Field(sa_type=BigInteger)
    # Since when no deployment needs it; None while one does.
    idle_since: datetime | None = Field(sa_type=UtcTime)
    failed_starts: int


class InstanceRow(DeployTable, table=True):
    """One rented machine; committed before it is launched."""

    __tablename__ = "instance"
    uid: str = Field(primary_key=True)
    # Exactly one of the two.
    deployment_uid: str = Field(index=True)
    pool_uid: str = Field(index=True)
    project_uid: str
    vcpus: int
    memory_bytes: int = Field(sa_type=BigInteger)
    state: int = Field(index=True)
    state_detail: str
    address: str
    limits: str
    allocate_ms: int = Field(sa_type=BigInteger)
    # Last time it was seen alive, and the last that was published.
    through_ms: int = Field(sa_type=BigInteger)
    observed_ms: int = Field(sa_type=BigInteger)
    release_ms: int | None = Field(sa_type=BigInteger)
    # Counts the instance's events.
    event_sequence: int

    @property
    def owner_uid(self) -> str:
        """The deployment or the pool it belongs to."""
        return self.deployment_uid or self.pool_uid

    @property
    def seen(self) -> bool:
        """The provider has shown it: it always says which limits it enforces."""
        return bool(self.limits)

    @property
    def billable(self) -> bool:
        """Instances of the shared pool are nobody's."""
        return bool(self.deployment_uid)
