"""what is ahead of versions: announcements, overrides of promised notice, indexes on dates"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString

revision = "7b9e4c1f2a60"
down_revision = "8c5e1d74a3f6"
branch_labels = None
depends_on = None

_DATES = (
    "legacy_date",
    "deprecation_date",
    "retirement_date",
    "fine_tune_deprecation_date",
    "fine_tune_retirement_date",
)


def upgrade() -> None:
    op.create_table(
        "notice_override",
        sa.Column("uid", AutoString(), primary_key=True),
        sa.Column("model_version", AutoString(), nullable=False, index=True),
        *(
            sa.Column(f"{prefix}{column}", AutoString(), nullable=False)
            for prefix in ("", "before_")
            for column in _DATES[:3]
        ),
        sa.Column("reason", AutoString(), nullable=False),
        sa.Column("principal", AutoString(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("use_time", sa.BigInteger(), nullable=True),
    )
    op.create_table(
        "announced_change",
        sa.Column("version_uid", AutoString(), primary_key=True),
        sa.Column("change", sa.Integer(), primary_key=True),
        sa.Column("day", AutoString(), nullable=False),
        sa.Column("days_ahead", sa.Integer(), nullable=False),
    )
    for column in _DATES:
        is_set = sa.text(f"{column} != ''")
        op.create_index(f"ix_version_{column}", "version", [column], sqlite_where=is_set, postgresql_where=is_set)


def downgrade() -> None:
    for column in _DATES:
        op.drop_index(f"ix_version_{column}", "version")
    op.drop_table("announced_change")
    op.drop_table("notice_override")
