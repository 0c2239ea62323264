"""What the catalog hears: which deployments there are."""

from __future__ import annotations

from modelyard.deploy.v1 import events_pb2

from chassis.database import UnitOfWork
from chassis.events import Event, decode_event
from services.catalog.storage.queries.sources import seen_deployment
from services.catalog.storage.tables import SeenDeploymentRow

_DELETED = "DELETED"


async def deployment_changed(uow: UnitOfWork, event: Event) -> None:
    """Durable `catalog-deployments`: a model that a deployment serves is not removed.

    An event that is older than what was heard of the deployment changes nothing; one without a version is from before
    versions were told.
    """
    changed = decode_event(event, events_pb2.DeploymentChanged)
    if not changed.model_version:
        return
    known = await seen_deployment(uow.session, changed.deployment_uid)
    if known is not None and known.sequence >= event.sequence:
        return
    row = known or SeenDeploymentRow(
        deployment_uid=changed.deployment_uid,
        model=changed.model_version.partition("/versions/")[0],
        model_version=changed.model_version,
        project_uid=event.project_uid or "",
        deployment=changed.deployment,
        living=True,
        sequence=0,
    )
    row.living, row.sequence = changed.state != _DELETED, event.sequence
    uow.session.add(row)
