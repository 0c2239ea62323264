"""long texts by the model's uid: an import writes them one behind the other"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString

revision = "a41c7e09d5b3"
down_revision = "7d40a1c5e2b8"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.rename_table("model_text", "model_text_by_name")
    op.create_table(
        "model_text",
        sa.Column("model_uid", AutoString(), nullable=False),
        sa.Column("card", AutoString(), nullable=False),
        sa.Column("notes", AutoString(), nullable=False),
        sa.Column("evaluation", AutoString(), nullable=False),
        sa.PrimaryKeyConstraint("model_uid", name="pk_model_text"),
    )
    op.execute(
        "insert into model_text (model_uid, card, notes, evaluation) "
        "select model.uid, card, notes, evaluation from model_text_by_name join model on model.name = model"
    )
    op.drop_table("model_text_by_name")
