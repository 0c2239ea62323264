"""What deploy hears: lifecycle changes of versions it has deployed."""

from __future__ import annotations

from datetime import UTC

from modelyard.catalog.v1 import catalog_pb2, events_pb2

from chassis.database import Database, UnitOfWork
from chassis.events import Event, decode_event
from services.deploy.storage import queries
from services.deploy.usecases.changes import Changes


class Consumed:
    """Handlers of deploy's consumers."""

    def __init__(self, database: Database, wanted: Changes) -> None:
        self._database = database
        self._wanted = wanted

    async def lifecycle(self, uow: UnitOfWork, event: Event) -> None:
        """Durable `deploy-lifecycle`: the retirement date travels in the route, where inference obeys it.

        A version's etag is the sequence of its newest lifecycle event, so what is older than the facts a deployment was
        made from, or than what it heard since, changes nothing.
        """
        changed = decode_event(event, events_pb2.VersionLifecycleChanged)
        for deployment in await queries.deployments_of_version_locked(
            uow.session, self._database, changed.model_version
        ):
            facts = catalog_pb2.ModelVersion.FromString(deployment.version_facts)
            if facts.etag.isdecimal() and int(facts.etag) >= event.sequence:
                continue
            facts.etag, facts.stage = str(event.sequence), changed.stage
            facts.ClearField("retire_time")
            deployment.retire_time = None
            if changed.HasField("retire_time"):
                facts.retire_time.CopyFrom(changed.retire_time)
                deployment.retire_time = changed.retire_time.ToDatetime(UTC)
            deployment.version_facts = facts.SerializeToString(deterministic=True)
            deployment.revision += 1
            uow.session.add(deployment)
        self._wanted.signal()
