"""quotes say who answers for the model"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "e81b5f02c6a9"
down_revision = "c4a7d2e9b013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("quote") as quote:
        for name in ("supported_by", "support_contact", "sla"):
            quote.add_column(sa.Column(name, sa.String(), nullable=False, server_default=""))
