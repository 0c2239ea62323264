"""what projects decided: licences they accepted, policies they keep"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString

revision = "6d2f0b9e41c7"
down_revision = "3b1f6a7c9d20"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "license_acceptance",
        sa.Column("project_uid", AutoString(), primary_key=True),
        sa.Column("digest", AutoString(), primary_key=True),
        sa.Column("license_id", AutoString(), nullable=False),
        sa.Column("model", AutoString(), nullable=False),
        sa.Column("principal", AutoString(), nullable=False),
        sa.Column("accept_time", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "policy",
        sa.Column("project_uid", AutoString(), primary_key=True),
        sa.Column("allowed_collections", sa.JSON(), nullable=False),
        sa.Column("allowed_publishers", sa.JSON(), nullable=False),
        sa.Column("allowed_licenses", sa.JSON(), nullable=False),
        sa.Column("blocked", sa.JSON(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("principal", AutoString(), nullable=False),
        sa.Column("update_time", sa.BigInteger(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("policy")
    op.drop_table("license_acceptance")
