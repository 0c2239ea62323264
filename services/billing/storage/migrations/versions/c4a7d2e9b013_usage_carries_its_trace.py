"""usage carries its trace"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "c4a7d2e9b013"
down_revision = "599d92a50d49"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("usage") as batch:
        batch.add_column(sa.Column("traceparent", sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("usage") as batch:
        batch.drop_column("traceparent")
