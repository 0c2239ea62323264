"""usage of audio and images"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "d2f8b6e10c47"
down_revision = "e81b5f02c6a9"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("usage") as batch:
        batch.add_column(sa.Column("audio_milliseconds", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("images", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("usage") as batch:
        batch.drop_column("images")
        batch.drop_column("audio_milliseconds")
