"""Tell projects what is ahead of the versions they have deployed."""

from __future__ import annotations

from datetime import UTC

from modelyard.catalog.v1 import events_pb2, lifecycle_pb2

from chassis.database import Database, UnitOfWork
from chassis.events import Event
from chassis.ids import new_uid
from services.deploy.events.published import deployment_change_announced
from services.deploy.storage import queries
from services.deploy.storage.tables import NoticeRow

# Fine-tuning a version is no business of those who have deployed it.
_TOLD = {
    lifecycle_pb2.VERSION_CHANGE_LEGACY,
    lifecycle_pb2.VERSION_CHANGE_DEPRECATION,
    lifecycle_pb2.VERSION_CHANGE_RETIREMENT,
}


async def give_notice(
    uow: UnitOfWork, database: Database, announced: events_pb2.VersionChangeAnnounced, event: Event
) -> None:
    """Keep a notice for every deployment of the version that is not going already, and say so to its project."""
    if announced.change not in _TOLD:
        return
    for row in await queries.deployments_of_version_locked(uow.session, database, announced.model_version):
        if row.deleting:
            continue
        notice = NoticeRow(
            uid=new_uid(),
            project_uid=row.project_uid,
            deployment_uid=row.uid,
            deployment=row.resource,
            model_version=row.model_version,
            change=announced.change,
            change_time=announced.change_time.ToDatetime(UTC),
            days_ahead=announced.days_ahead,
            replacement=announced.replacement,
            create_time=event.time,
        )
        row.revision += 1
        uow.session.add_all([row, notice])
        uow.emit(deployment_change_announced(row, notice))
