"""What deploy hears of versions: what changed, and what is ahead."""

from __future__ import annotations

from datetime import UTC

from modelyard.catalog.v1 import catalog_pb2, events_pb2

from chassis.database import Database, UnitOfWork
from chassis.events import Event, decode_event
from services.deploy.storage import queries
from services.deploy.usecases.changes import Changes
from services.deploy.usecases.notices import give_notice
from services.deploy.usecases.versions import bring_up_to_date, hear


class Consumed:
    """Handlers of deploy's consumers."""

    def __init__(self, database: Database, wanted: Changes) -> None:
        self._database = database
        self._wanted = wanted

    async def lifecycle(self, uow: UnitOfWork, event: Event) -> None:
        """Durable `deploy-lifecycle`: dates, and where an external provider answers, travel in the route, where
        inference tells and obeys them.

        What is older than the facts a deployment was made from, or than what was heard since, changes nothing.
        """
        changed = decode_event(event, events_pb2.VersionLifecycleChanged)
        seen = await hear(uow, self._database, event.aggregate_uid, changed, event.sequence)
        for deployment in await queries.deployments_of_version_locked(
            uow.session, self._database, changed.model_version
        ):
            facts = catalog_pb2.ModelVersion.FromString(deployment.version_facts)
            if not bring_up_to_date(facts, seen):
                continue
            deployment.retire_time = facts.retire_time.ToDatetime(UTC) if facts.HasField("retire_time") else None
            deployment.version_facts = facts.SerializeToString(deterministic=True)
            deployment.revision += 1
            uow.session.add(deployment)
        self._wanted.signal()

    async def change_announced(self, uow: UnitOfWork, event: Event) -> None:
        """Durable `deploy-changes-ahead`: projects that have deployed the version are told."""
        announced = decode_event(event, events_pb2.VersionChangeAnnounced)
        await give_notice(uow, self._database, announced, event)
