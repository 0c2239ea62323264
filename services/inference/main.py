"""Wires inference's rooms."""

from __future__ import annotations

import asyncio
from functools import partial

from modelyard.inference.v1 import inference_pb2_grpc, operations_pb2_grpc, trials_pb2_grpc
from modelyard.type.v1 import access_pb2
from tritonclient.grpc import service_pb2_grpc

from chassis.access import AccessPolicy, BucketRoleDirectory, TokenVerifier
from chassis.bus import BucketWatch, Bus
from chassis.clock import check_not_behind
from chassis.http_server import HttpServer
from chassis.rpc import RpcServer, ServedService, service_channel
from chassis.rpc.client import token_from_file
from chassis.secret_files import SecretFiles
from chassis.service import ServiceContext
from chassis.telemetry import observe
from services.inference.access.keys import KeyDirectory
from services.inference.access.routes import RouteDirectory
from services.inference.backends.provider import ProviderBackend, ProviderLimits
from services.inference.backends.templates import TemplateLimits, TemplateProcesses
from services.inference.backends.triton import TritonBackend
from services.inference.http.app import create_app
from services.inference.http.model_page import ModelPage
from services.inference.http.page import Page
from services.inference.journal.journal import Journal, JournalLimits
from services.inference.journal.publisher import Publisher
from services.inference.rpc import open_inference
from services.inference.rpc.open_inference import OpenInferenceServicer
from services.inference.rpc.servicer import InferenceServicer, OperationsServicer, caller_from_key
from services.inference.rpc.trials import TrialServicer
from services.inference.settings import InferenceSettings
from services.inference.usecases.calls import CallLimits, Calls
from services.inference.usecases.trials import TrialLimits, Trials

INFERENCE_SERVICE = "modelyard.inference.v1.InferenceService"
OPERATIONS_SERVICE = "modelyard.inference.v1.InferenceOperationsService"
TRIAL_SERVICE = "modelyard.inference.v1.TrialService"


async def main(context: ServiceContext, settings: InferenceSettings) -> None:
    """Run until the context says stop."""
    clock = context.clock
    journal = Journal(
        settings.journal_dir or settings.data_dir / "journal",
        JournalLimits(
            size_bytes_max=settings.journal_bytes_max,
            segment_bytes_max=settings.journal_segment_bytes_max,
            entries_max=settings.journal_entries_max,
            commit_interval_s=settings.journal_commit_s,
        ),
    )
    check_not_behind(clock, journal.newest_occur_time, settings.clock_behind_s_max)
    journal.start()
    context.spawn(journal.watch(), "journal")
    bus = await Bus.connect(settings.nats_url, settings.nats_credential_file, "inference")
    keys = KeyDirectory(bus, clock, stale_s_max=settings.routes_stale_s_max, arrive_s=settings.access_arrive_s)
    routes = RouteDirectory(bus, clock, stale_s_max=settings.routes_stale_s_max, arrive_s=settings.access_arrive_s)
    directory = BucketRoleDirectory(bus, arrive_s=settings.access_arrive_s)
    publisher = Publisher(journal, bus, clock, resend_s=settings.usage_resend_s)
    for watch in (keys.watch, routes.watch, directory.watch, publisher.watch):
        context.spawn(watch.run(), "bucket watch")
    context.spawn(publisher.run(), "usage publisher")
    backend = TritonBackend(settings.cluster_secret_file.read_bytes(), token_timeout_s=settings.token_timeout_s)
    providers = ProviderBackend(
        SecretFiles(settings.provider_keys_dir),
        ProviderLimits(
            calls_max=settings.provider_calls_max,
            calls_per_minute_max=settings.provider_calls_per_minute_max,
            connect_s_max=settings.provider_connect_s_max,
            silence_s_max=settings.token_timeout_s,
            answer_bytes_max=settings.provider_answer_bytes_max,
            insecure=settings.provider_insecure,
            proxy=settings.provider_proxy,
        ),
    )
    templates = TemplateProcesses(
        TemplateLimits(
            processes_max=settings.template_processes_max,
            render_s_max=settings.template_render_s_max,
            memory_bytes_max=settings.template_memory_bytes_max,
        )
    )
    calls = Calls(routes, journal, backend, providers, templates, clock, CallLimits(settings.call_s_max))

    _observe(journal, routes, keys)

    credential = token_from_file(settings.service_token_file)
    catalog = service_channel(settings.catalog_address, credential)
    billing = service_channel(settings.billing_address, credential)
    deploy = service_channel(settings.deploy_address, credential)
    trials = Trials(
        calls,
        deploy,
        TrialLimits(
            settings.trials_per_minute_max,
            settings.trial_characters_max,
            settings.trial_output_tokens_max,
            settings.trial_start_s_max,
            settings.trial_file_bytes_max,
        ),
    )
    verifier = TokenVerifier.from_settings(settings)
    server = RpcServer.from_settings(
        settings,
        [
            ServedService(INFERENCE_SERVICE, inference_pb2_grpc, InferenceServicer(keys, calls)),
            ServedService(OPERATIONS_SERVICE, operations_pb2_grpc, OperationsServicer(calls)),
            ServedService(TRIAL_SERVICE, trials_pb2_grpc, TrialServicer(trials)),
            ServedService(
                open_inference.SERVICE,
                service_pb2_grpc,
                OpenInferenceServicer(keys, calls, concurrent_calls_max=settings.raw_stream_calls_max),
            ),
        ],
        AccessPolicy(
            verifier,
            directory,
            authenticate_key=lambda metadata: caller_from_key(keys, metadata),
            # The protocol is not ours, so its rule stands here: every method takes a key.
            foreign_rules={f"/{open_inference.SERVICE}/": access_pb2.AccessRule(role=access_pb2.ROLE_KEY)},
        ),
    )
    for watch in (keys.watch, routes.watch):
        await watch.listed.wait()
    await server.start()
    page, model_page = Page(routes, catalog, billing), ModelPage(catalog, billing)
    app = create_app(
        keys,
        calls,
        page,
        model_page,
        body_bytes_max=settings.body_bytes_max,
        media_bytes_max=settings.media_bytes_max,
    )
    rest = HttpServer(app, settings.rest_address, settings, connections_max=settings.connections_max)
    serving = context.spawn(rest.serve(), "rest")
    context.ready({"grpc": server.address, "rest": rest.url})
    await context.stop_event.wait()

    async with asyncio.timeout(settings.stop_s_max):
        calls.stopping = True
        rest.stop()
        await server.stop(grace_s=settings.stop_s_max / 2)
        await asyncio.gather(serving, return_exceptions=True)
        # Calls that were cut settle before the journal closes; what is not sent waits for the next start.
        await journal.all_settled()
        await context.close()
        journal.close()
        await backend.close()
        await providers.close()
        await templates.close()
        for channel in (catalog, billing, deploy):
            await channel.close()
        await bus.close()


def _observe(journal: Journal, routes: RouteDirectory, keys: KeyDirectory) -> None:
    """What Prometheus reads of the data path."""
    for name, read, unit, description in (
        ("open", lambda: journal.running_count, "{call}", "Calls that run."),
        ("unbilled", lambda: len(journal.settled), "{call}", "Settled calls that billing has not committed."),
        ("size", lambda: journal.size_bytes, "By", "Bytes on disk."),
        ("limit", lambda: journal.size_bytes_max, "By", "Bytes on disk at which new calls are refused."),
        ("refusing", lambda: float(bool(journal.refusing)), "1", "1 while new calls are refused."),
    ):
        observe(f"modelyard.journal.{name}", read, unit=unit, description=description)
    for name, watch in (("routes", routes.watch), ("keys", keys.watch)):
        observe(
            f"modelyard.{name}.staleness",
            partial(_staleness_s, watch),
            unit="s",
            description="Since they were last known to be current.",
        )


def _staleness_s(watch: BucketWatch) -> float:
    return min(watch.staleness_s, 1e9)
