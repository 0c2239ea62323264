"""The tables that every service's database has besides its own."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table, text

from chassis.database.columns import UtcTime

# SQLite counts rows by itself only where the key is its own INTEGER type.
_RowNumber = BigInteger().with_variant(Integer, "sqlite")


@dataclass(frozen=True, slots=True)
class ChassisTables:
    """Outbox (to publish), inbox (taken effect), dead letters (could not), requests (answered)."""

    outbox: Table
    inbox: Table
    dead_letter: Table
    request: Table


def chassis_tables(metadata: MetaData) -> ChassisTables:
    """Declare the chassis' tables in a service's own metadata."""
    outbox = Table(
        "outbox",
        metadata,
        # Orders rows of one writer; never a read position, since sequences do not commit in order.
        Column("row_number", _RowNumber, primary_key=True, autoincrement=True),
        Column("id", String(36), nullable=False, unique=True),
        Column("kind", String(10), nullable=False),  # "event" or "projection"
        Column("subject", String(255), nullable=False),  # or the bucket
        Column("headers", String, nullable=False),  # JSON; or the key
        Column("data", LargeBinary, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        Column("publish_time", UtcTime, nullable=True),
        # Until when one relay has it; another takes it afterwards.
        Column("claim_expire_time", UtcTime, nullable=True),
    )
    Index(
        "ix_outbox_unpublished",
        outbox.c.row_number,
        sqlite_where=text("publish_time is null"),
        postgresql_where=text("publish_time is null"),
    )
    return ChassisTables(
        outbox=outbox,
        inbox=Table(
            "inbox",
            metadata,
            Column("consumer", String(64), primary_key=True),
            Column("event_id", String(36), primary_key=True),
            Column("effect_time", UtcTime, nullable=False, index=True),
        ),
        dead_letter=Table(
            "dead_letter",
            metadata,
            Column("id", String(36), primary_key=True),
            Column("consumer", String(64), nullable=False),
            Column("subject", String(255), nullable=False),
            Column("headers", String, nullable=False),
            Column("data", LargeBinary, nullable=False),
            Column("why", String, nullable=False),
            Column("receive_time", UtcTime, nullable=False),
            Column("replay_time", UtcTime, nullable=True),
        ),
        request=Table(
            "request",
            metadata,
            Column("principal", String(128), primary_key=True),
            Column("method", String(128), primary_key=True),
            Column("request_id", String(64), primary_key=True),
            Column("digest", String(64), nullable=False),
            Column("response", LargeBinary, nullable=False),
            Column("answer_time", UtcTime, nullable=False, index=True),
        ),
    )
