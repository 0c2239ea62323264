"""Wires the catalog's rooms."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

from modelyard.catalog.v1 import (
    artifacts_pb2_grpc,
    benchmarks_pb2_grpc,
    catalog_pb2_grpc,
    code_samples_pb2_grpc,
    governance_pb2_grpc,
    hub_pb2_grpc,
    imports_pb2_grpc,
    installs_pb2_grpc,
    lifecycle_pb2_grpc,
    registry_pb2_grpc,
    search_pb2_grpc,
    sources_pb2_grpc,
)

from chassis.access import AccessPolicy, BucketRoleDirectory, TokenVerifier
from chassis.bus import Bus
from chassis.clock import check_not_behind
from chassis.database import Database, open_database
from chassis.dead_letters import Handlers
from chassis.http_server import HttpServer
from chassis.inbox import Consumer
from chassis.memory import share_heaps
from chassis.outbox import OutboxRelay
from chassis.rpc import RpcServer, ServedService, service_channel
from chassis.rpc.client import token_from_file
from chassis.rpc.dead_letters import DeadLetterServicer
from chassis.secret_files import SecretFiles
from chassis.service import ServiceContext, write_atomically
from services.catalog import limits
from services.catalog.artifacts.sources import STORE, ByteSources, StoredFiles, WheelFiles
from services.catalog.artifacts.store import ArtifactStore
from services.catalog.domain.downloads import UrlSigner
from services.catalog.events.consumed import deployment_changed
from services.catalog.http.app import create_app
from services.catalog.rpc.artifacts import ArtifactServicer
from services.catalog.rpc.benchmarks import BenchmarkServicer
from services.catalog.rpc.code_samples import CodeSampleServicer
from services.catalog.rpc.governance import GovernanceServicer
from services.catalog.rpc.hub import HubServicer
from services.catalog.rpc.imports import ImportServicer
from services.catalog.rpc.installs import InstallServicer
from services.catalog.rpc.lifecycle import LifecycleServicer
from services.catalog.rpc.naming import Naming
from services.catalog.rpc.neighbours import Neighbours
from services.catalog.rpc.registry import RegistryServicer
from services.catalog.rpc.search import SearchServicer
from services.catalog.rpc.servicer import CatalogServicer
from services.catalog.rpc.sources import SourceServicer
from services.catalog.settings import CatalogSettings
from services.catalog.sources.curated import curated_adapters
from services.catalog.sources.hub.adapter import hub_adapters
from services.catalog.sources.hub.hub import HubSource
from services.catalog.sources.hub.hubs import HUB, Hubs
from services.catalog.sources.interface import AdapterFactory
from services.catalog.sources.packages import PackageStore
from services.catalog.sources.provider import provider_adapters
from services.catalog.storage.queries.models import newest_create_time
from services.catalog.storage.tables import CHASSIS
from services.catalog.usecases.check_uploads import UploadChecker
from services.catalog.usecases.downloads import DownloadReader
from services.catalog.usecases.learn_prices import watch_prices
from services.catalog.usecases.lifecycle import watch_dates
from services.catalog.usecases.project_search import SearchProjection
from services.catalog.usecases.sync_content import sync_content
from services.catalog.usecases.sync_sources import Syncer

MIGRATIONS = Path(__file__).parent / "storage" / "migrations"
PACKAGE = "modelyard.catalog.v1"
# As many threads work at once: Python's lock lets one, beside it the index and the database.
_HEAPS = 4


async def main(context: ServiceContext, settings: CatalogSettings) -> None:
    """Run until the context says stop."""
    share_heaps(_HEAPS)
    database = await open_database(settings, "catalog", CHASSIS, MIGRATIONS)
    clock = context.clock
    async with database.reader() as session:
        check_not_behind(clock, await newest_create_time(session), settings.clock_behind_s_max)
    packages = PackageStore(settings.packages_dir or settings.data_dir / "packages")
    notice = limits.notice(settings)
    await sync_content(database, clock, settings.content_dir, packages, notice)
    bus = await Bus.connect(settings.nats_url, settings.nats_credential_file, "catalog")
    directory = BucketRoleDirectory(bus, arrive_s=settings.access_arrive_s)
    context.spawn(directory.watch.run(), "roles")
    projection = SearchProjection(database, clock, settings.data_dir / "search", limits.projection_limits(settings))
    await projection.open()
    await projection.catch_up(settings.search_start_s_max)
    context.spawn(OutboxRelay(database, bus, clock).run(), "outbox relay")
    context.spawn(projection.run(), "search index")
    context.spawn(
        Consumer(bus, database, clock, "DEPLOY", "catalog-deployments", deployment_changed).run(), "deployments"
    )
    dates = watch_dates(database, clock, settings.lifecycle_check_s, settings.announce_days)
    context.spawn(dates, "lifecycle")

    credential = token_from_file(settings.service_token_file)
    billing = service_channel(settings.billing_address, credential)
    deploy = service_channel(settings.deploy_address, credential)
    access = AccessPolicy(TokenVerifier.from_settings(settings), directory)
    naming = Naming(access)
    store = ArtifactStore(limits.store_settings(settings))
    hubs = Hubs(SecretFiles(settings.source_keys_dir), limits.hub_bounds(settings), limits.hub_limits(settings))
    sources = ByteSources({"file": WheelFiles(), STORE: StoredFiles(store), HUB: hubs})
    reader = DownloadReader(sources, running_max=settings.downloads_max)
    signer = UrlSigner(_download_key(settings))
    http = HttpServer(
        create_app(database, clock, signer, reader),
        settings.http_address,
        settings,
        connections_max=settings.connections_max,
    )
    http_url = settings.http_url.rstrip("/") or http.url
    code_samples = settings.content_dir / "code_samples"
    neighbours = Neighbours(billing, deploy)
    context.spawn(watch_prices(database, neighbours.token_prices, settings.prices_poll_s), "prices")
    dead_letters = DeadLetterServicer(database, clock, Handlers({"catalog-deployments": deployment_changed}))
    source_hub = hubs.open(HubSource(settings.hub_endpoint, settings.hub_key_reference))
    search = SearchServicer(
        database,
        clock,
        projection,
        directory.projects_of,
        limits.search_limits(settings),
        limits.near_limits(settings),
    )
    governance = GovernanceServicer(database, clock, naming, neighbours, policy_entries_max=settings.policy_entries_max)
    served = [
        ServedService(f"{PACKAGE}.CatalogService", catalog_pb2_grpc, CatalogServicer(database, clock, naming)),
        ServedService(
            f"{PACKAGE}.ArtifactService",
            artifacts_pb2_grpc,
            ArtifactServicer(database, clock, naming, signer, reader, directory.projects_of, http_url=http_url),
        ),
        ServedService(
            f"{PACKAGE}.BenchmarkService", benchmarks_pb2_grpc, BenchmarkServicer(database, clock, neighbours)
        ),
        ServedService(
            f"{PACKAGE}.CodeSampleService", code_samples_pb2_grpc, CodeSampleServicer(database, naming, code_samples)
        ),
        ServedService(f"{PACKAGE}.GovernanceService", governance_pb2_grpc, governance),
        ServedService(f"{PACKAGE}.LifecycleService", lifecycle_pb2_grpc, LifecycleServicer(database, clock)),
        ServedService(f"{PACKAGE}.ImportService", imports_pb2_grpc, ImportServicer(database, clock, settings)),
        ServedService(f"{PACKAGE}.SearchService", search_pb2_grpc, search),
        ServedService(f"{PACKAGE}.HubService", hub_pb2_grpc, HubServicer(database, clock, source_hub)),
        ServedService(
            f"{PACKAGE}.InstallService",
            installs_pb2_grpc,
            InstallServicer(database, clock, settings.content_dir, packages, notice),
        ),
        ServedService(
            f"{PACKAGE}.SourceService", sources_pb2_grpc, _sources(context, database, settings, hubs, packages)
        ),
        ServedService(f"{PACKAGE}.RegistryService", registry_pb2_grpc, _registry(context, database, settings, store)),
        dead_letters.served(),
    ]
    server = RpcServer.from_settings(settings, served, access)
    await server.start()
    serving = context.spawn(http.serve(), "http")
    context.ready({"grpc": server.address, "artifacts": http.url})
    await context.stop_event.wait()
    async with asyncio.timeout(settings.stop_s_max):
        http.stop()
        await server.stop(grace_s=settings.stop_s_max / 2)
        await asyncio.gather(serving, return_exceptions=True)
        await context.close()
        await hubs.close()
        for channel in (billing, deploy):
            await channel.close()
        await projection.close()
        await bus.close()
        await database.dispose()


def _registry(
    context: ServiceContext, database: Database, settings: CatalogSettings, store: ArtifactStore
) -> RegistryServicer:
    """Projects' own models, and what looks at the files they upload."""
    uploads = limits.upload_limits(settings)
    checker = UploadChecker(
        database,
        context.clock,
        store,
        uploads,
        settings.data_dir / "checking",
        scan_s_max=settings.upload_scan_s_max,
        checks_max=settings.upload_checks_max,
    )
    context.spawn(checker.run(), "uploads")
    own, serving = limits.own_limits(settings), limits.serving_limits(settings)
    return RegistryServicer(database, context.clock, store, checker, uploads, own, serving)


def _sources(
    context: ServiceContext, database: Database, settings: CatalogSettings, hubs: Hubs, packages: PackageStore
) -> SourceServicer:
    """Begin to sync configured sources; what configures them."""
    keys = SecretFiles(settings.source_keys_dir)
    # By kind, as the contract names them.
    adapters: dict[str, AdapterFactory] = {
        "provider": provider_adapters(keys, limits.provider_bounds(settings), proxy=settings.sources_proxy),
        "hub": hub_adapters(hubs, settings.hub_endpoint, models_max=settings.hub_models_max),
        "curated": curated_adapters(
            settings.curated_dir, packages, limits.notice(settings), limits.curated_bounds(settings)
        ),
    }
    syncer = Syncer(database, context.clock, adapters, limits.sync_limits(settings))
    context.spawn(syncer.run(), "sources")
    return SourceServicer(
        database,
        context.clock,
        syncer,
        adapters,
        insecure=settings.sources_insecure,
        preview_models_max=settings.preview_models_max,
    )


def _download_key(settings: CatalogSettings) -> bytes:
    """The key in the file that is set, else one of this data folder's own, made the first time."""
    path = settings.download_key_file or settings.data_dir / "download.key"
    if not path.exists() and settings.download_key_file is None:
        write_atomically(path, secrets.token_hex(32))
    return path.read_bytes()
