"""configured sources: their runs, what they list, where providers answer, which deployments there are"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString

revision = "8c5e1d74a3f6"
down_revision = "a41c7e09d5b3"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "source",
        sa.Column("id", AutoString(), primary_key=True),
        sa.Column("uid", AutoString(), nullable=False, unique=True),
        sa.Column("spec", sa.LargeBinary(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("next_sync_time", sa.BigInteger(), nullable=True, index=True),
        sa.Column("run_count", sa.Integer(), nullable=False),
        sa.Column("lease_owner", AutoString(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "sync_run",
        sa.Column("uid", AutoString(), primary_key=True),
        sa.Column("source", AutoString(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False, index=True),
        sa.Column("trigger", AutoString(), nullable=False),
        sa.Column("cursor", AutoString(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("failures", sa.JSON(), nullable=False),
        sa.Column("detail", AutoString(), nullable=False),
        sa.Column("resume_count", sa.Integer(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("start_time", sa.BigInteger(), nullable=True),
        sa.Column("end_time", sa.BigInteger(), nullable=True),
    )
    op.create_index("ix_sync_run_source", "sync_run", ["source", "number"])
    op.create_table(
        "source_model",
        sa.Column("source", AutoString(), primary_key=True),
        sa.Column("model", AutoString(), primary_key=True, index=True),
        sa.Column("run_number", sa.Integer(), nullable=False),
    )
    op.create_index("ix_source_model_run", "source_model", ["source", "run_number"])
    op.create_table(
        "seen_deployment",
        sa.Column("deployment_uid", AutoString(), primary_key=True),
        sa.Column("model", AutoString(), nullable=False),
        sa.Column("model_version", AutoString(), nullable=False),
        sa.Column("project_uid", AutoString(), nullable=False, index=True),
        sa.Column("deployment", AutoString(), nullable=False),
        sa.Column("living", sa.Boolean(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
    )
    op.create_index("ix_seen_deployment_model", "seen_deployment", ["model", "living"])
    with op.batch_alter_table("model") as model:
        model.add_column(sa.Column("provider_source", AutoString(), nullable=False, server_default=""))
        model.add_column(sa.Column("provider_target", sa.LargeBinary(), nullable=False, server_default=""))
    with op.batch_alter_table("model") as model:
        model.alter_column("provider_source", server_default=None)
        model.alter_column("provider_target", server_default=None)
        model.create_index(model.f("ix_model_provider_source"), ["provider_source"])


def downgrade() -> None:
    with op.batch_alter_table("model") as model:
        model.drop_index(model.f("ix_model_provider_source"))
        model.drop_column("provider_source")
        model.drop_column("provider_target")
    for name in ("seen_deployment", "source_model", "sync_run", "source"):
        op.drop_table(name)
