"""What deploy hears: lifecycle changes of versions it has deployed."""

from __future__ import annotations

from datetime import UTC

from modelyard.catalog.v1 import events_pb2

from chassis.database import UnitOfWork
from chassis.events import Event, decode_event
from services.deploy.storage import queries
from services.deploy.usecases.changes import Changes


class Consumed:
    """Handlers of deploy's consumers."""

    def __init__(self, wanted: Changes) -> None:
        self._wanted = wanted

    async def lifecycle(self, uow: UnitOfWork, event: Event) -> None:
        """Durable `deploy-lifecycle`: the retirement date travels in the route, where inference obeys it."""
        changed = decode_event(event, events_pb2.VersionLifecycleChanged)
        retire_time = changed.retire_time.ToDatetime(UTC) if changed.HasField("retire_time") else None
        for deployment in await queries.deployments_of_version(uow.session, changed.model_version):
            deployment.retire_time = retire_time
            deployment.revision += 1
            uow.session.add(deployment)
        self._wanted.signal()
