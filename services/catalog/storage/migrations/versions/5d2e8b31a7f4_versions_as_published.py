"""versions as their publisher wrote them, to be given back"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString

revision = "5d2e8b31a7f4"
down_revision = "6d2f0b9e41c7"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "version_origin",
        sa.Column("version", AutoString(), primary_key=True),
        sa.Column("document", sa.LargeBinary(), nullable=False),
    )
