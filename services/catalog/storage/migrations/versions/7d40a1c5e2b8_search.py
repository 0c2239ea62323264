"""what search and lists by task go by: tasks, seen prices, composite indexes"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString

revision = "7d40a1c5e2b8"
down_revision = "1a3a17e872a9"
branch_labels = None
depends_on = None

_SINGLE = ("publisher", "collection", "usability", "project_uid", "change_sequence")
_COMPOSITE = {
    "ix_model_listed": ["name", "collection", "usability", "project_uid"],
    "ix_model_change": ["change_sequence", "withdrawn"],
}


def upgrade() -> None:
    tasks = op.create_table(
        "model_task",
        sa.Column("task", AutoString(), primary_key=True),
        sa.Column("model", AutoString(), primary_key=True),
    )
    op.create_index("ix_model_task_model", "model_task", ["model"])
    op.create_table(
        "seen_price",
        sa.Column("model", AutoString(), primary_key=True),
        sa.Column("input_nanos", sa.BigInteger(), nullable=True),
        sa.Column("output_nanos", sa.BigInteger(), nullable=True),
    )
    for column in _SINGLE:
        op.drop_index(f"ix_model_{column}", "model")
    for name, columns in _COMPOSITE.items():
        op.create_index(name, "model", columns)
    # A version's name begins with its model's, so its key finds the versions of a model.
    op.drop_index("ix_version_model", "version")
    own = sa.text("project_uid <> ''")
    op.create_index("ix_model_own", "model", ["project_uid", "name"], sqlite_where=own, postgresql_where=own)
    for name, facts in op.get_bind().execute(sa.text("select name, facts from model")).fetchall():
        known = facts if isinstance(facts, dict) else json.loads(facts)
        op.bulk_insert(tasks, [{"task": task, "model": name} for task in known.get("tasks", ())])
