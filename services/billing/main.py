"""Wires billing's rooms."""

from __future__ import annotations

import asyncio
from pathlib import Path

from modelyard.billing.v1 import billing_pb2_grpc

from chassis.access import AccessPolicy, BucketRoleDirectory, TokenVerifier
from chassis.bus import Bus
from chassis.clock import check_not_behind
from chassis.database import open_database
from chassis.dead_letters import Handlers
from chassis.inbox import BatchConsumer, Consumer
from chassis.outbox import OutboxRelay
from chassis.rpc import RpcServer, ServedService, service_channel
from chassis.rpc.client import token_from_file
from chassis.rpc.dead_letters import DeadLetterServicer
from chassis.service import ServiceContext
from services.billing.events.consumed import Consumed
from services.billing.rpc.catalog_client import CatalogClient
from services.billing.rpc.servicer import BillingServicer
from services.billing.settings import BillingSettings
from services.billing.storage import reads
from services.billing.storage.tables import CHASSIS
from services.billing.usecases.post_usage import announce_counters
from services.billing.usecases.prices import load_price_lists

MIGRATIONS = Path(__file__).parent / "storage" / "migrations"
# Batches of usage under way at once where the database has more than one writer.
USAGE_CONSUMERS = 2


async def main(context: ServiceContext, settings: BillingSettings) -> None:
    """Run until the context says stop."""
    database = await open_database(settings, "billing", CHASSIS, MIGRATIONS)
    clock = context.clock
    async with database.reader() as session:
        check_not_behind(clock, await reads.newest_instant(session, database.tables), settings.clock_behind_s_max)
    await load_price_lists(database, settings.price_lists_dir)
    bus = await Bus.connect(settings.nats_url, settings.nats_credential_file, "billing")
    directory = BucketRoleDirectory(bus, arrive_s=settings.access_arrive_s)
    consumed = Consumed(database, clock)
    announce_counters()
    context.spawn(directory.watch.run(), "roles")
    context.spawn(OutboxRelay(database, bus, clock).run(), "outbox relay")
    # SQLite has one writer; on PostgreSQL one batch is made ready while the server writes the other.
    for _ in range(1 if database.is_sqlite else USAGE_CONSUMERS):
        usage = BatchConsumer(
            bus, database, clock, "USAGE", "billing-usage", consumed.usage, batch_max=settings.usage_batch_max
        )
        context.spawn(usage.run(), "usage")
    handlers = {
        "billing-instances": consumed.instance,
        "billing-projects": consumed.project,
        "billing-deployments": consumed.deployment,
    }
    for durable, handler in handlers.items():
        context.spawn(Consumer(bus, database, clock, "DEPLOY", durable, handler).run(), durable)

    catalog_channel = service_channel(settings.catalog_address, token_from_file(settings.service_token_file))
    servicer = BillingServicer(
        database, bus, clock, CatalogClient(catalog_channel), quote_valid_s=settings.quote_valid_s
    )
    dead_letters = DeadLetterServicer(database, clock, Handlers(handlers, {"billing-usage": consumed.usage}))
    verifier = TokenVerifier.from_settings(settings)
    server = RpcServer.from_settings(
        settings,
        [
            ServedService("modelyard.billing.v1.BillingService", billing_pb2_grpc, servicer),
            dead_letters.served(),
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
