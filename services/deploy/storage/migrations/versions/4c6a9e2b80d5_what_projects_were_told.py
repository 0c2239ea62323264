"""what projects were told of versions they have deployed"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString

revision = "4c6a9e2b80d5"
down_revision = "2e8c5d0a71b4"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notice",
        sa.Column("uid", AutoString(), primary_key=True),
        sa.Column("project_uid", AutoString(), nullable=False, index=True),
        sa.Column("deployment_uid", AutoString(), nullable=False),
        sa.Column("deployment", AutoString(), nullable=False),
        sa.Column("model_version", AutoString(), nullable=False),
        sa.Column("change", sa.Integer(), nullable=False),
        sa.Column("change_time", sa.BigInteger(), nullable=False),
        sa.Column("days_ahead", sa.Integer(), nullable=False),
        sa.Column("replacement", AutoString(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("notice")
