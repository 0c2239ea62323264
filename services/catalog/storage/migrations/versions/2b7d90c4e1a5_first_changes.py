"""first changes; what publishers wrote by the uid of its version: an import writes it one behind the other"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString

revision = "2b7d90c4e1a5"
down_revision = "8e4c1f27b6d3"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Of models that are there it is not known, and 0 is never the number of a last change.
    op.add_column("model", sa.Column("first_sequence", sa.BigInteger(), nullable=False, server_default="0"))
    op.rename_table("version_origin", "version_origin_by_name")
    op.create_table(
        "version_origin",
        sa.Column("version_uid", AutoString(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("version_uid", name="pk_version_origin"),
    )
    op.execute(
        "insert into version_origin (version_uid, document) "
        "select version.uid, document from version_origin_by_name join version on version.name = version_origin_by_name.version"
    )
    op.drop_table("version_origin_by_name")


def downgrade() -> None:
    op.rename_table("version_origin", "version_origin_by_uid")
    op.create_table(
        "version_origin",
        sa.Column("version", AutoString(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_version_origin"),
    )
    op.execute(
        "insert into version_origin (version, document) "
        "select version.name, document from version_origin_by_uid join version on version.uid = version_uid"
    )
    op.drop_table("version_origin_by_uid")
    op.drop_column("model", "first_sequence")
