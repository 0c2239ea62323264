"""Rows to protos, where an answer is kept with its effect."""

from __future__ import annotations

from modelyard.catalog.v1 import lifecycle_pb2

from chassis.timestamps import timestamp
from services.catalog.storage.tables import NoticeOverrideRow


def override_to_proto(row: NoticeOverrideRow) -> lifecycle_pb2.NoticeOverride:
    """An override as it is shown."""
    return lifecycle_pb2.NoticeOverride(
        name=f"noticeOverrides/{row.uid}",
        model_version=row.model_version,
        before=lifecycle_pb2.LifecycleDates(
            legacy=row.before_legacy_date,
            deprecation=row.before_deprecation_date,
            retirement=row.before_retirement_date,
        ),
        after=lifecycle_pb2.LifecycleDates(
            legacy=row.legacy_date, deprecation=row.deprecation_date, retirement=row.retirement_date
        ),
        reason=row.reason,
        principal=row.principal,
        create_time=timestamp(row.create_time),
        use_time=None if row.use_time is None else timestamp(row.use_time),
    )
