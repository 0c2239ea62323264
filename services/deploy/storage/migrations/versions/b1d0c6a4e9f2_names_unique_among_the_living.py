"""names unique among the living"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "b1d0c6a4e9f2"
down_revision = "7f05d02b717d"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, table, condition, columns in (
        ("uq_endpoint_living_name", "endpoint", "not deleted", ["project_uid", "name"]),
        ("uq_deployment_living_name", "deployment", "state <> 6", ["endpoint_uid", "name"]),
    ):
        where = sa.text(condition)
        op.create_index(name, table, columns, unique=True, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    op.drop_index("uq_deployment_living_name", "deployment")
    op.drop_index("uq_endpoint_living_name", "endpoint")
