"""own models"""

from __future__ import annotations

import sqlalchemy as sa
import sqlmodel
from alembic import op

import chassis.database.columns

revision = "8e4c1f27b6d3"
down_revision = "7b9e4c1f2a60"
branch_labels = None
depends_on = None


def _text(name: str) -> sa.Column:
    return sa.Column(name, sqlmodel.sql.sqltypes.AutoString(), nullable=False)


def _bytes(name: str) -> sa.Column:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _time(name: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, chassis.database.columns.UtcTime(), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "upload",
        _text("uid"),
        _text("project_uid"),
        _text("principal"),
        _bytes("size_bytes"),
        _text("sha256"),
        _bytes("received_bytes"),
        sa.Column("state", sa.Integer(), nullable=False),
        _text("detail"),
        _time("create_time"),
        _time("update_time"),
        _time("claimed_until", nullable=True),
        sa.PrimaryKeyConstraint("uid"),
    )
    op.create_index("ix_upload_project", "upload", ["project_uid", "uid"])
    op.create_index("ix_upload_state", "upload", ["state", "update_time"])
    op.create_table(
        "upload_part",
        _text("upload_uid"),
        _bytes("start_bytes"),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        _text("part"),
        sa.PrimaryKeyConstraint("upload_uid", "start_bytes"),
    )
    op.create_table(
        "content",
        _text("sha256"),
        _bytes("size_bytes"),
        _text("format"),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        _time("create_time"),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_index("ix_content_state", "content", ["state"])
    op.create_table(
        "project_content",
        _text("project_uid"),
        _text("sha256"),
        _time("upload_time"),
        sa.PrimaryKeyConstraint("project_uid", "sha256"),
    )
    op.create_index("ix_project_content_sha256", "project_content", ["sha256"])
    op.create_table(
        "version_content",
        _text("version_uid"),
        _text("sha256"),
        _text("project_uid"),
        sa.PrimaryKeyConstraint("version_uid", "sha256"),
    )
    op.create_index("ix_version_content_sha256", "version_content", ["sha256"])


def downgrade() -> None:
    for table in ("version_content", "project_content", "content", "upload_part", "upload"):
        op.drop_table(table)
