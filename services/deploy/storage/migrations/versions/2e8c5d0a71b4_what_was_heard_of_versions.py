"""what was heard of versions"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString

revision = "2e8c5d0a71b4"
down_revision = "ab61ba7a5ab2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "seen_version",
        sa.Column("uid", AutoString(), primary_key=True),
        sa.Column("model_version", AutoString(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("change", sa.LargeBinary(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("seen_version")
