"""first changes"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2b7d90c4e1a5"
down_revision = "8e4c1f27b6d3"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Of models that are there it is not known, and 0 is never the number of a last change.
    op.add_column("model", sa.Column("first_sequence", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("model", "first_sequence")
