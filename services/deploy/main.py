"""Wires deploy's rooms."""

from __future__ import annotations

import asyncio
from pathlib import Path

from modelyard.deploy.v1 import deploy_pb2_grpc, notices_pb2_grpc, trials_pb2_grpc

from chassis.access import AccessPolicy, TokenVerifier
from chassis.bus import Bus
from chassis.clock import check_not_behind, time_from_ms
from chassis.database import open_database
from chassis.dead_letters import Handlers
from chassis.inbox import Consumer
from chassis.outbox import OutboxRelay
from chassis.rpc import RpcServer, ServedService, service_channel
from chassis.rpc.client import token_from_file
from chassis.rpc.dead_letters import DeadLetterServicer
from chassis.rpc.server import check_listener
from chassis.service import ServiceContext
from services.deploy.compute.local import LocalProvider
from services.deploy.compute.settings import LocalSettings
from services.deploy.events.consumed import Consumed
from services.deploy.rpc.deployments import DeployServicer
from services.deploy.rpc.directory import DatabaseRoleDirectory
from services.deploy.rpc.neighbours import Neighbours
from services.deploy.rpc.notices import NoticeServicer
from services.deploy.rpc.projects import ProjectServicer
from services.deploy.rpc.trials import TrialServicer
from services.deploy.settings import DeploySettings
from services.deploy.storage import queries
from services.deploy.storage.tables import CHASSIS
from services.deploy.usecases.acceptance import Limits
from services.deploy.usecases.launch import Launcher
from services.deploy.usecases.reconcile import ReconcileLimits, Reconciler
from services.deploy.usecases.trials import TrialLimits, watch_trials
from services.deploy.weights.cache import CacheLimits, WeightsCache
from services.deploy.weights.catalog import CatalogWeights

MIGRATIONS = Path(__file__).parent / "storage" / "migrations"
DEPLOY_SERVICE = "modelyard.deploy.v1.DeployService"
PROJECT_SERVICE = "modelyard.deploy.v1.ProjectService"
NOTICE_SERVICE = "modelyard.deploy.v1.NoticeService"
TRIAL_SERVICE = "modelyard.deploy.v1.TrialService"


async def main(context: ServiceContext, settings: DeploySettings) -> None:
    """Run until the context says stop."""
    database = await open_database(settings, "deploy", CHASSIS, MIGRATIONS)
    clock = context.clock
    async with database.reader() as session:
        newest_ms = await queries.newest_instance_ms(session)
    check_not_behind(clock, time_from_ms(newest_ms), settings.clock_behind_s_max)
    check_listener(f"{settings.instance_host}:0", has_tls=False, insecure=settings.insecure)
    provider = LocalProvider(
        LocalSettings(
            instances_dir=settings.data_dir / "instances",
            cluster_secret_file=settings.cluster_secret_file,
            host=settings.instance_host,
            lease_file=settings.lease_file,
            lease_stale_s=settings.lease_stale_s,
            start_timeout_s=settings.instance_start_timeout_s,
            load_timeout_s=settings.instance_load_timeout_s,
            load_idle_s=settings.instance_load_idle_s,
            canary_timeout_s=settings.instance_canary_timeout_s,
            canary_interval_s=settings.instance_canary_interval_s,
            drain_s=settings.instance_drain_s,
            restarts_max=settings.instance_restarts_max,
            restart_window_s=settings.instance_restart_window_s,
            log_bytes_max=settings.instance_log_bytes_max,
            cgroup_parent=settings.cgroup_parent,
            packages_dir=settings.packages_dir,
        ),
        clock,
    )
    credential = token_from_file(settings.service_token_file)
    billing = service_channel(settings.billing_address, credential)
    catalog = service_channel(settings.catalog_address, credential)
    source = CatalogWeights(
        catalog,
        silence_s_max=settings.weights_silence_s_max,
        root_certificates_file=settings.weights_root_certificates_file,
    )
    weights = WeightsCache(
        settings.weights_dir or settings.data_dir / "weights",
        source,
        CacheLimits(settings.weights_bytes_max, settings.weights_attempts_max),
    )
    reconciler = Reconciler(
        database,
        clock,
        provider,
        Launcher(provider, weights),
        ReconcileLimits(
            settings.observe_s, settings.pool_idle_s, settings.failed_starts_max, settings.instance_records_keep_s
        ),
        interval_s=settings.reconcile_s,
    )
    loop = context.spawn(reconciler.run(), "reconciler")
    bus = await Bus.connect(settings.nats_url, settings.nats_credential_file, "deploy")
    relay = OutboxRelay(database, bus, clock)
    context.spawn(relay.run(), "outbox relay")
    consumed = Consumed(database, reconciler.wanted)
    handlers = {"deploy-lifecycle": consumed.lifecycle, "deploy-changes-ahead": consumed.change_announced}
    for durable, handler in handlers.items():
        context.spawn(Consumer(bus, database, clock, "CATALOG", durable, handler).run(), durable)
    dead_letters = DeadLetterServicer(database, clock, Handlers(handlers))

    limits = Limits(
        settings.deployments_per_endpoint_max,
        settings.instances_max,
        settings.instances_memory_bytes_max,
        settings.own_pools_per_project_max,
    )
    neighbours = Neighbours(billing, catalog)
    deploy_servicer = DeployServicer(
        database,
        clock,
        provider,
        reconciler,
        neighbours,
        limits,
        endpoints_max=settings.endpoints_per_project_max,
    )
    trial_limits = TrialLimits(settings.trials_max, settings.trial_idle_s)
    trial_servicer = TrialServicer(database, clock, neighbours, reconciler.wanted, limits, trial_limits)
    context.spawn(watch_trials(database, clock, reconciler.wanted, settings.trial_idle_s), "trials")
    project_servicer = ProjectServicer(database, clock, reconciler.wanted)
    verifier = TokenVerifier.from_settings(settings)
    server = RpcServer.from_settings(
        settings,
        [
            ServedService(DEPLOY_SERVICE, deploy_pb2_grpc, deploy_servicer),
            ServedService(PROJECT_SERVICE, deploy_pb2_grpc, project_servicer),
            ServedService(NOTICE_SERVICE, notices_pb2_grpc, NoticeServicer(database)),
            ServedService(TRIAL_SERVICE, trials_pb2_grpc, trial_servicer),
            dead_letters.served(),
        ],
        AccessPolicy(verifier, DatabaseRoleDirectory(database)),
    )
    await server.start()
    context.ready({"grpc": server.address})
    await context.stop_event.wait()
    release_s = settings.instance_drain_s if settings.release_on_stop else 0
    async with asyncio.timeout(settings.stop_s_max * 2 + release_s):
        await server.stop(grace_s=1.0)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        if settings.release_on_stop and not context.failed:
            await reconciler.release_all()
            # The ends of the instances must be known before NATS goes, or the bill would wait for the next start.
            while bus.connected and await relay.relay_once():
                pass
        await reconciler.close()
        await context.close()
        await source.close()
        for channel in (billing, catalog):
            await channel.close()
        await bus.close()
        await database.dispose()
