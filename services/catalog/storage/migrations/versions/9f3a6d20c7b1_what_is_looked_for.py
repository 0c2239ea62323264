"""tasks of models by their key alone, which saves every import a page a model; models that were withdrawn"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "9f3a6d20c7b1"
down_revision = "2b7d90c4e1a5"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_model_task_model", "model_task")
    op.create_index(
        "ix_model_withdrawn",
        "model",
        ["update_time"],
        sqlite_where=sa.text("withdrawn = 1"),
        postgresql_where=sa.text("withdrawn"),
    )


def downgrade() -> None:
    op.drop_index("ix_model_withdrawn", "model")
    op.create_index("ix_model_task_model", "model_task", ["model"])
