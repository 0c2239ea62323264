"""models of many sources: facts in one column, long texts beside, a count of changes"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString

revision = "3b1f6a7c9d20"
down_revision = "94c39260df0f"
branch_labels = None
depends_on = None

_TO_FACTS = (
    "summary",
    "tasks",
    "deployment_options",
    "languages",
    "tags",
    "sources",
    "parameter_count",
    "context_tokens",
)


def upgrade() -> None:
    op.create_table(
        "model_text",
        sa.Column("model", AutoString(), primary_key=True),
        sa.Column("card", AutoString(), nullable=False),
        sa.Column("notes", AutoString(), nullable=False),
        sa.Column("evaluation", AutoString(), nullable=False),
    )
    op.create_table(
        "license_text",
        sa.Column("digest", AutoString(), primary_key=True),
        sa.Column("text", AutoString(), nullable=False),
    )
    with op.batch_alter_table("model") as model:
        for name, column_type, default in (
            ("source", AutoString(), "content"),
            ("project_uid", AutoString(), ""),
            ("license_digest", AutoString(), ""),
            ("facts", sa.JSON(), "{}"),
            ("withdrawn", sa.Boolean(), sa.false()),
            ("digest", AutoString(), ""),
            ("change_sequence", sa.BigInteger(), "0"),
            ("update_time", sa.BigInteger(), "0"),
        ):
            model.add_column(sa.Column(name, column_type, nullable=False, server_default=default))
    with op.batch_alter_table("version") as version:
        for name, column_type, default in (
            ("identity", AutoString(), ""),
            ("facts", sa.JSON(), "{}"),
            ("fine_tune_deprecation_date", AutoString(), ""),
            ("fine_tune_retirement_date", AutoString(), ""),
            ("replacement", AutoString(), ""),
        ):
            version.add_column(sa.Column(name, column_type, nullable=False, server_default=default))
    _move_models()
    _identify_versions()
    with op.batch_alter_table("model") as model:
        for name in (*_TO_FACTS, "card", "license_text", "etag"):
            model.drop_column(name)
        for name in ("source", "project_uid", "license_digest", "facts", "withdrawn", "digest", "change_sequence"):
            model.alter_column(name, server_default=None)
        model.alter_column("update_time", server_default=None)
        model.create_index(model.f("ix_model_source"), ["source"])
        model.create_index(model.f("ix_model_project_uid"), ["project_uid"])
        model.create_index(model.f("ix_model_change_sequence"), ["change_sequence"])
    with op.batch_alter_table("version") as version:
        for name in ("identity", "facts", "fine_tune_deprecation_date", "fine_tune_retirement_date", "replacement"):
            version.alter_column(name, server_default=None)


def _move_models() -> None:
    """Each model's facts into one column, its long texts into rows of their own."""
    connection = op.get_bind()
    model = sa.table(
        "model",
        *(sa.column(name) for name in ("name", "card", "license_text", "license_digest", "create_time")),
        *(sa.column(name) for name in ("change_sequence", "update_time")),
        *(sa.column(name, sa.JSON()) for name in ("tasks", "deployment_options", "languages", "tags", "sources")),
        *(sa.column(name) for name in ("summary", "parameter_count", "context_tokens")),
        sa.column("facts", sa.JSON()),
    )
    text = sa.table("model_text", *(sa.column(name) for name in ("model", "card", "notes", "evaluation")))
    license_text = sa.table("license_text", sa.column("digest"), sa.column("text"))
    licenses: dict[str, str] = {}
    for sequence, row in enumerate(connection.execute(sa.select(model).order_by(model.c.name)).all(), start=1):
        digest = hashlib.sha256(row.license_text.encode()).hexdigest() if row.license_text else ""
        if digest:
            licenses[digest] = row.license_text
        connection.execute(
            sa.update(model)
            .where(model.c.name == row.name)
            .values(
                facts={name: getattr(row, name) for name in _TO_FACTS},
                license_digest=digest,
                change_sequence=sequence,
                update_time=row.create_time,
            )
        )
        connection.execute(sa.insert(text).values(model=row.name, card=row.card, notes="", evaluation=""))
    for digest, body in licenses.items():
        connection.execute(sa.insert(license_text).values(digest=digest, text=body))


def _identify_versions() -> None:
    """What may not change under a version's name, as `services.catalog.domain.records.identity_of` had it then."""
    connection = op.get_bind()
    version = sa.table(
        "version",
        sa.column("name"),
        sa.column("identity"),
        sa.column("artifacts", sa.JSON()),
        sa.column("serving", sa.JSON()),
    )
    for row in connection.execute(sa.select(version)).all():
        identity = _identity(row.artifacts, row.serving)
        connection.execute(sa.update(version).where(version.c.name == row.name).values(identity=identity))


def _identity(artifacts: list[dict[str, Any]], serving: dict[str, Any] | None) -> str:
    known = None if serving is None else {key: value for key, value in serving.items() if value}
    files = sorted((file["name"], file["sha256"], file["size_bytes"]) for file in artifacts)
    told = json.dumps([files, known, None, None], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(told.encode()).hexdigest()
