"""Wires billing's rooms."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

from modelyard.billing.v1 import billing_pb2_grpc

from chassis.access import AccessPolicy, BucketRoleDirectory, TokenVerifier
from chassis.bus import Bus
from chassis.clock import Clock
from chassis.database import Database
from chassis.database.migrations import migrate
from chassis.inbox import BatchConsumer, Consumer
from chassis.outbox import OutboxRelay
from chassis.rpc import RpcServer, ServedService, service_channel
from chassis.rpc.client import token_from_file
from chassis.service import ServiceContext
from services.billing.domain.errors import ClockBehind
from services.billing.events.consumed import Consumed
from services.billing.rpc.catalog_client import CatalogClient
from services.billing.rpc.servicer import BillingServicer
from services.billing.settings import BillingSettings
from services.billing.storage import reads
from services.billing.storage.tables import CHASSIS
from services.billing.usecases.prices import load_price_lists

MIGRATIONS = Path(__file__).parent / "storage" / "migrations"


async def main(context: ServiceContext, settings: BillingSettings) -> None:
    """Run until the context says stop."""
    url = settings.resolved_database_url("billing")
    if settings.migrate_on_start:
        await migrate(url, MIGRATIONS)
    database = Database(url, CHASSIS, pool_size_max=settings.database_pool_size_max)
    clock = context.clock
    await check_clock(database, clock, settings.clock_behind_s_max)
    await load_price_lists(database, settings.price_lists_dir)
    bus = await Bus.connect(settings.nats_url, settings.nats_credential_file, "billing")
    directory = BucketRoleDirectory(bus, arrive_s=settings.access_arrive_s)
    consumed = Consumed(database, clock)
    context.spawn(directory.watch.run(), "roles")
    context.spawn(OutboxRelay(database, bus, clock).run(), "outbox relay")
    context.spawn(
        BatchConsumer(
            bus, database, clock, "USAGE", "billing-usage", consumed.usage, batch_max=settings.usage_batch_max
        ).run(),
        "usage",
    )
    for durable, handler in (
        ("billing-instances", consumed.instance),
        ("billing-projects", consumed.project),
        ("billing-deployments", consumed.deployment),
    ):
        context.spawn(Consumer(bus, database, clock, "DEPLOY", durable, handler).run(), durable)

    catalog_channel = service_channel(settings.catalog_address, token_from_file(settings.service_token_file))
    servicer = BillingServicer(
        database, bus, clock, CatalogClient(catalog_channel), quote_valid_s=settings.quote_valid_s
    )
    public_key = settings.token_public_key_file.read_text() if settings.token_public_key_file else None
    verifier = TokenVerifier(public_key, oidc_issuer=settings.oidc_issuer, oidc_audience=settings.oidc_audience)
    server = RpcServer.from_settings(
        settings,
        [
            ServedService(
                "modelyard.billing.v1.BillingService", billing_pb2_grpc.add_BillingServiceServicer_to_server, servicer
            )
        ],
        AccessPolicy(verifier, directory),
    )
    await server.start()
    context.ready({"grpc": server.address})
    await context.stop_event.wait()
    async with asyncio.timeout(settings.stop_s_max):
        await server.stop(grace_s=settings.stop_s_max / 2)
        await catalog_channel.close()
        await context.close()
        await bus.close()
        await database.dispose()


async def check_clock(database: Database, clock: Clock, behind_s_max: float) -> None:
    """Refuse to record time that has been recorded already.

    Raises:
        ClockBehind: naming both moments.
    """
    async with database.reader() as session:
        newest = await reads.newest_instant(session, database.tables)
    now = clock.now()
    if newest is not None and now < newest - timedelta(seconds=behind_s_max):
        raise ClockBehind(
            f"the wall clock says {now.isoformat()} and the newest stored instant is {newest.isoformat()}; "
            f"more than {behind_s_max:g} s behind is refused: set the clock right and start again"
        )
