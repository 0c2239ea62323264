"""Wires the catalog's rooms."""

from __future__ import annotations

import asyncio
from pathlib import Path

from modelyard.catalog.v1 import catalog_pb2_grpc, code_samples_pb2_grpc

from chassis.access import AccessPolicy, TokenVerifier
from chassis.bus import Bus
from chassis.clock import check_not_behind
from chassis.database import open_database
from chassis.outbox import OutboxRelay
from chassis.rpc import RpcServer, ServedService
from chassis.service import ServiceContext
from services.catalog.rpc.code_samples import CodeSampleServicer
from services.catalog.rpc.servicer import CatalogServicer
from services.catalog.settings import CatalogSettings
from services.catalog.storage.queries.models import newest_create_time
from services.catalog.storage.tables import CHASSIS
from services.catalog.usecases.lifecycle import watch_dates
from services.catalog.usecases.sync_content import sync_content

MIGRATIONS = Path(__file__).parent / "storage" / "migrations"
SERVICE = "modelyard.catalog.v1.CatalogService"
CODE_SAMPLE_SERVICE = "modelyard.catalog.v1.CodeSampleService"


async def main(context: ServiceContext, settings: CatalogSettings) -> None:
    """Run until the context says stop."""
    database = await open_database(settings, "catalog", CHASSIS, MIGRATIONS)
    clock = context.clock
    async with database.reader() as session:
        check_not_behind(clock, await newest_create_time(session), settings.clock_behind_s_max)
    await sync_content(database, clock, settings.content_dir)
    verifier = TokenVerifier.from_settings(settings)
    server = RpcServer.from_settings(
        settings,
        [
            ServedService(
                SERVICE, catalog_pb2_grpc.add_CatalogServiceServicer_to_server, CatalogServicer(database, clock)
            ),
            ServedService(
                CODE_SAMPLE_SERVICE,
                code_samples_pb2_grpc.add_CodeSampleServiceServicer_to_server,
                CodeSampleServicer(database, settings.content_dir / "code_samples"),
            ),
        ],
        AccessPolicy(verifier),
    )
    await server.start()
    bus = await Bus.connect(settings.nats_url, settings.nats_credential_file, "catalog")
    context.spawn(OutboxRelay(database, bus, clock).run(), "outbox relay")
    context.spawn(watch_dates(database, clock, settings.lifecycle_check_s), "lifecycle")
    context.ready({"grpc": server.address})
    await context.stop_event.wait()
    async with asyncio.timeout(settings.stop_s_max):
        await server.stop(grace_s=settings.stop_s_max / 2)
        await context.close()
        await bus.close()
        await database.dispose()
