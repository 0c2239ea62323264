"""HubService."""

from __future__ import annotations

from typing import Any

from modelyard.catalog.v1 import hub_pb2, hub_pb2_grpc

from chassis.clock import Clock
from chassis.database import Database
from services.catalog.domain.errors import HubModelNotFound
from services.catalog.rpc.convert import model_to_proto
from services.catalog.sources.hub.hub import Hub
from services.catalog.storage.queries import models as stored
from services.catalog.usecases.hub_models import import_hub_model

Context = Any


class HubServicer(hub_pb2_grpc.HubServiceServicer):
    """Takes single models of the platform's hub."""

    def __init__(self, database: Database, clock: Clock, hub: Hub) -> None:
        self._database = database
        self._clock = clock
        self._hub = hub

    async def ImportHubModel(
        self, request: hub_pb2.ImportHubModelRequest, context: Context
    ) -> hub_pb2.ImportHubModelResponse:
        imported = await import_hub_model(
            self._database, self._clock, self._hub, request.hub_id, request.revision, request.file
        )
        async with self._database.reader() as session:
            row = await stored.model(session, imported.model)
            if row is None:
                raise HubModelNotFound(f"{imported.model!r} left the catalog meanwhile; import it again")
            newest = await stored.version(session, row.latest_version)
        return hub_pb2.ImportHubModelResponse(
            model=model_to_proto(row, newest, self._clock.now()),
            model_version=imported.version,
            revision=imported.revision,
            outcome=hub_pb2.HubImportOutcome.Value(f"HUB_IMPORT_OUTCOME_{imported.outcome}"),
            score_count=imported.score_count,
            dropped_scores=imported.dropped_scores,
        )
