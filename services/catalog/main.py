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
from chassis.outbox import OutboxRelay
from chassis.rpc import RpcServer, ServedService, service_channel
from chassis.rpc.client import token_from_file
from chassis.rpc.dead_letters import DeadLetterServicer
from chassis.secret_files import SecretFiles
from chassis.service import ServiceContext, write_atomically
from engines.architectures import RUN_BY
from services.catalog.artifacts.sources import STORE, ByteSources, StoredFiles, WheelFiles
from services.catalog.artifacts.store import ArtifactStore, StoreSettings
from services.catalog.domain.downloads import UrlSigner
from services.catalog.domain.lifecycle import Notice
from services.catalog.domain.own.describe import ServingLimits
from services.catalog.domain.own.rules import OwnLimits
from services.catalog.domain.search import Limits
from services.catalog.domain.uploads import UploadLimits
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
from services.catalog.sources.hub.adapter import hub_adapters
from services.catalog.sources.hub.client import HubBounds
from services.catalog.sources.hub.hub import HubLimits, HubSource
from services.catalog.sources.hub.hubs import HUB, Hubs
from services.catalog.sources.interface import AdapterFactory
from services.catalog.sources.packages import PackageStore
from services.catalog.sources.provider import ListingBounds, provider_adapters
from services.catalog.storage.queries.models import newest_create_time
from services.catalog.storage.tables import CHASSIS
from services.catalog.usecases.check_uploads import UploadChecker
from services.catalog.usecases.downloads import DownloadReader
from services.catalog.usecases.learn_prices import watch_prices
from services.catalog.usecases.lifecycle import watch_dates
from services.catalog.usecases.project_search import ProjectionLimits, SearchProjection
from services.catalog.usecases.search_models import NearLimits
from services.catalog.usecases.sync_content import sync_content
from services.catalog.usecases.sync_sources import Syncer, SyncLimits

MIGRATIONS = Path(__file__).parent / "storage" / "migrations"
PACKAGE = "modelyard.catalog.v1"


async def main(context: ServiceContext, settings: CatalogSettings) -> None:
    """Run until the context says stop."""
    database = await open_database(settings, "catalog", CHASSIS, MIGRATIONS)
    clock = context.clock
    async with database.reader() as session:
        check_not_behind(clock, await newest_create_time(session), settings.clock_behind_s_max)
    packages = PackageStore(settings.packages_dir or settings.data_dir / "packages")
    notice = Notice(settings.legacy_notice_days, settings.deprecated_notice_days)
    await sync_content(database, clock, settings.content_dir, packages, notice)
    bus = await Bus.connect(settings.nats_url, settings.nats_credential_file, "catalog")
    directory = BucketRoleDirectory(bus, arrive_s=settings.access_arrive_s)
    context.spawn(directory.watch.run(), "roles")
    projection = SearchProjection(database, clock, settings.data_dir / "search", _projection_limits(settings))
    await projection.open()
    await projection.catch_up(settings.search_start_s_max)
    context.spawn(OutboxRelay(database, bus, clock).run(), "outbox relay")
    context.spawn(projection.run(), "search index")
    context.spawn(
        Consumer(bus, database, clock, "DEPLOY", "catalog-deployments", deployment_changed).run(), "deployments"
    )
    dead_letters = DeadLetterServicer(database, clock, Handlers({"catalog-deployments": deployment_changed}))
    dates = watch_dates(database, clock, settings.lifecycle_check_s, settings.announce_days)
    context.spawn(dates, "lifecycle")

    credential = token_from_file(settings.service_token_file)
    billing = service_channel(settings.billing_address, credential)
    deploy = service_channel(settings.deploy_address, credential)
    access = AccessPolicy(TokenVerifier.from_settings(settings), directory)
    naming = Naming(access)
    store = ArtifactStore(_store_settings(settings))
    hubs = _hubs(settings)
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
    servicer = CatalogServicer(database, clock, naming)
    artifacts = ArtifactServicer(database, clock, naming, signer, reader, directory.projects_of, http_url=http_url)
    code_samples = CodeSampleServicer(database, naming, settings.content_dir / "code_samples")
    neighbours = Neighbours(billing, deploy)
    context.spawn(
        watch_prices(database, neighbours.token_prices, settings.prices_poll_s),
        "prices",
    )
    benchmarks = BenchmarkServicer(database, clock, neighbours)
    search = SearchServicer(
        database,
        clock,
        projection,
        directory.projects_of,
        _search_limits(settings),
        NearLimits(settings.search_near_below, settings.search_near_max),
    )
    governance = GovernanceServicer(database, clock, naming, neighbours, policy_entries_max=settings.policy_entries_max)
    served = [
        ServedService(f"{PACKAGE}.CatalogService", catalog_pb2_grpc.add_CatalogServiceServicer_to_server, servicer),
        ServedService(
            f"{PACKAGE}.ArtifactService", artifacts_pb2_grpc.add_ArtifactServiceServicer_to_server, artifacts
        ),
        ServedService(
            f"{PACKAGE}.BenchmarkService", benchmarks_pb2_grpc.add_BenchmarkServiceServicer_to_server, benchmarks
        ),
        ServedService(
            f"{PACKAGE}.CodeSampleService",
            code_samples_pb2_grpc.add_CodeSampleServiceServicer_to_server,
            code_samples,
        ),
        ServedService(
            f"{PACKAGE}.GovernanceService",
            governance_pb2_grpc.add_GovernanceServiceServicer_to_server,
            governance,
        ),
        ServedService(
            f"{PACKAGE}.LifecycleService",
            lifecycle_pb2_grpc.add_LifecycleServiceServicer_to_server,
            LifecycleServicer(database, clock),
        ),
        ServedService(
            f"{PACKAGE}.ImportService",
            imports_pb2_grpc.add_ImportServiceServicer_to_server,
            ImportServicer(database, clock, settings),
        ),
        ServedService(f"{PACKAGE}.SearchService", search_pb2_grpc.add_SearchServiceServicer_to_server, search),
        ServedService(
            f"{PACKAGE}.HubService",
            hub_pb2_grpc.add_HubServiceServicer_to_server,
            HubServicer(database, clock, hubs.open(HubSource(settings.hub_endpoint, settings.hub_key_reference))),
        ),
        ServedService(
            f"{PACKAGE}.InstallService",
            installs_pb2_grpc.add_InstallServiceServicer_to_server,
            InstallServicer(database, clock, settings.content_dir, packages, notice),
        ),
        dead_letters.served(),
        _sources(context, database, settings, hubs),
        _registry(context, database, settings, store),
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


def _hubs(settings: CatalogSettings) -> Hubs:
    bounds = HubBounds(settings.hub_timeout_s, settings.hub_attempts_max, wait_s_max=settings.hub_wait_s_max)
    limits = HubLimits(
        models_max=settings.hub_models_max,
        card_bytes_max=settings.hub_card_bytes_max,
        small_file_bytes_max=settings.hub_small_file_bytes_max,
        head_bytes_max=settings.hub_head_bytes_max,
        context_tokens_max=settings.hub_context_tokens_max,
        slots=settings.hub_slots,
    )
    return Hubs(SecretFiles(settings.source_keys_dir), bounds, limits)


def _registry(
    context: ServiceContext, database: Database, settings: CatalogSettings, store: ArtifactStore
) -> ServedService:
    """Projects' own models, and what looks at the files they upload."""
    uploads = UploadLimits(
        file_bytes_max=settings.upload_bytes_max,
        part_bytes_max=settings.upload_part_bytes_max,
        open_max=settings.uploads_open_max,
        project_bytes_max=settings.project_bytes_max,
        idle_s=settings.upload_idle_s,
        unused_s=settings.unused_file_keep_s,
    )
    own = OwnLimits(
        models_max=settings.project_models_max,
        versions_max=settings.model_versions_max,
        files_max=settings.version_files_max,
    )
    serving = ServingLimits(
        run_by=RUN_BY,
        context_tokens=settings.own_context_tokens,
        context_tokens_max=settings.own_context_tokens_max,
        slots=settings.own_slots,
    )
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
    return ServedService(
        f"{PACKAGE}.RegistryService",
        registry_pb2_grpc.add_RegistryServiceServicer_to_server,
        RegistryServicer(database, context.clock, store, checker, uploads, own, serving),
    )


def _store_settings(settings: CatalogSettings) -> StoreSettings:
    return StoreSettings(
        url=settings.store_url or (settings.data_dir / "artifacts").absolute().as_uri(),
        s3_endpoint=settings.s3_endpoint,
        s3_region=settings.s3_region,
        s3_credential_file=settings.s3_credential_file,
        request_s_max=settings.store_request_s_max,
    )


def _download_key(settings: CatalogSettings) -> bytes:
    """The key in the file that is set, else one of this data folder's own, made the first time."""
    path = settings.download_key_file or settings.data_dir / "download.key"
    if not path.exists() and settings.download_key_file is None:
        write_atomically(path, secrets.token_hex(32))
    return path.read_bytes()


def _search_limits(settings: CatalogSettings) -> Limits:
    return Limits(
        query_length_max=settings.search_query_length_max,
        words_max=settings.search_words_max,
        filters_max=settings.search_filters_max,
        filter_values_max=settings.search_filter_values_max,
        facet_values_max=settings.search_facet_values_max,
    )


def _projection_limits(settings: CatalogSettings) -> ProjectionLimits:
    return ProjectionLimits(
        poll_s=settings.search_poll_s,
        batch_models=settings.search_batch_models,
        commit_models=settings.search_commit_models,
        commit_s=settings.search_commit_s,
        card_length_max=settings.search_card_length_max,
        rebuild_s_min=settings.search_rebuild_s_min,
        threads=settings.search_threads,
        heap_bytes=settings.search_writer_bytes_max,
    )


def _sources(context: ServiceContext, database: Database, settings: CatalogSettings, hubs: Hubs) -> ServedService:
    """Begin to sync configured sources; the service that configures them."""
    bounds = ListingBounds(
        bytes_max=settings.provider_page_bytes_max,
        models_max=settings.provider_models_max,
        s_max=settings.provider_list_s_max,
    )
    keys = SecretFiles(settings.source_keys_dir)
    # By kind, as the contract names them.
    adapters: dict[str, AdapterFactory] = {
        "provider": provider_adapters(keys, bounds, proxy=settings.sources_proxy),
        "hub": hub_adapters(hubs, settings.hub_endpoint, models_max=settings.hub_models_max),
    }
    limits = SyncLimits(
        check_s=settings.sources_check_s,
        syncs_max=settings.syncs_max,
        lease_s=settings.sync_lease_s,
        run_s_max=settings.sync_s_max,
        runs_kept=settings.sync_runs_kept,
        withdrawn_keep_s=settings.withdrawn_keep_s,
    )
    syncer = Syncer(database, context.clock, adapters, limits)
    context.spawn(syncer.run(), "sources")
    servicer = SourceServicer(
        database,
        context.clock,
        syncer,
        adapters,
        insecure=settings.sources_insecure,
        preview_models_max=settings.preview_models_max,
    )
    return ServedService(f"{PACKAGE}.SourceService", sources_pb2_grpc.add_SourceServiceServicer_to_server, servicer)
