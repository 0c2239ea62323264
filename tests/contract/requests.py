"""The smallest valid request of each message that an empty one is not, and what such requests need to be there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.billing.v1 import billing_pb2
from modelyard.catalog.v1 import (
    catalog_pb2,
    governance_pb2,
    lifecycle_pb2,
    providers_pb2,
    registry_pb2,
    sources_pb2,
)
from modelyard.catalog.v1 import events_pb2 as catalog_events
from modelyard.deploy.v1 import deploy_pb2, events_pb2, notices_pb2
from modelyard.events.v1 import dead_letters_pb2
from modelyard.inference.v1 import inference_pb2
from modelyard.type.v1 import money_pb2, usage_pb2
from modelyard_client import upload_file

from chassis.bus import Bus
from chassis.clock import SystemClock, time_from_ms
from chassis.events import published_event
from chassis.ids import new_uid
from tests.infra.content import DATED
from tests.infra.platform import PlatformUnderTest, ProjectUnderTest, eventually, request_for
from tests.infra.registry import DOUBLER, digest

USAGE_COUNT = 3
DEAD_LETTER_COUNT = 2


@dataclass
class Shop:
    """A project with at least two of everything that lists hold, and an inference key for it."""

    platform: PlatformUnderTest
    project: ProjectUnderTest
    versions: list[str]
    key: str = ""
    line: str = ""
    quotes: dict[str, str] = field(default_factory=dict)

    async def ask(self, method: MethodDescriptor, request: Message) -> Any:
        """Call as an admin, or with the key where it takes keys."""
        return await self.platform.call(method, request, self.credential(method))

    def credential(self, method: MethodDescriptor) -> str:
        if method.containing_service.full_name == "modelyard.inference.v1.InferenceService":
            return self.key
        return self.platform.token("admin", admin=True)


# Enough for a second page; every model that runs here would fill the machine.
DEPLOYED = 2


async def open_shop(platform: PlatformUnderTest) -> Shop:
    """Make everything through the APIs, and usage as inference and deploy publish it."""
    await platform.new_project()
    project = await platform.new_project()
    shop = Shop(platform, project, (await _runnable_versions(platform))[:DEPLOYED])
    await _accept_licenses(shop)
    for number, version in enumerate(shop.versions):
        quote = await platform.admin.billing.CreateQuote(
            billing_pb2.CreateQuoteRequest(parent=project.name, model_version=version)
        )
        shop.quotes[version] = quote.name
        endpoint = await platform.admin.deploy.CreateEndpoint(
            deploy_pb2.CreateEndpointRequest(
                parent=project.name, endpoint_id=f"endpoint-{number}", kind=deploy_pb2.ENDPOINT_KIND_SERVERLESS
            )
        )
        await platform.admin.deploy.CreateDeployment(
            deploy_pb2.CreateDeploymentRequest(
                parent=endpoint.name, deployment_id="blue", model_version=version, quote=quote.name
            )
        )
    await _announce_changes(shop)
    for number in range(2):
        await platform.admin.lifecycle.CreateNoticeOverride(_override(number))
    await _register_models(shop)
    await platform.new_key(project)
    shop.key = await platform.new_key(project)
    await _add_sources(shop)
    await _publish_usage(shop)
    await _wait_for_lists(shop)
    return shop


async def _runnable_versions(platform: PlatformUnderTest) -> list[str]:
    request = catalog_pb2.ListModelsRequest(usability=catalog_pb2.USABILITY_RUNS_HERE)
    models = (await platform.admin.catalog.ListModels(request)).models
    return [
        model.latest_version for model in models if catalog_pb2.DEPLOYMENT_OPTION_SERVERLESS in model.deployment_options
    ]


async def _accept_licenses(shop: Shop) -> None:
    """One acceptance of each text that is shipped."""
    governance, catalog = shop.platform.admin.governance, shop.platform.admin.catalog
    models = (await catalog.ListModels(catalog_pb2.ListModelsRequest(page_size=1000))).models
    for text, name in {model.license.digest: model.name for model in models if model.license.digest}.items():
        request = governance_pb2.AcceptLicenseRequest(parent=shop.project.name, model=name, digest=text)
        await governance.AcceptLicense(request)


def _a_source(**changes: Any) -> sources_pb2.ModelSource:
    """A source that nobody answers."""
    provider = sources_pb2.ProviderSource(
        kind=providers_pb2.PROVIDER_KIND_OPENAI, base_url="http://127.0.0.1:9/v1", publisher="publishers/openai"
    )
    return sources_pb2.ModelSource(
        **{"collection": "collections/azure-openai", "provider": provider, "paused": True, **changes}
    )


async def _add_sources(shop: Shop) -> None:
    """Two sources; the first has two runs."""
    sources = shop.platform.admin.sources
    for number in range(2):
        request = sources_pb2.CreateModelSourceRequest(source_id=f"source-{number}", source=_a_source())
        await sources.CreateModelSource(request)
    for _ in range(2):
        run = await sources.SyncModelSource(sources_pb2.SyncModelSourceRequest(name="sources/source-0"))

        async def ended(name: str = run.name) -> bool:
            seen = await sources.GetSyncRun(sources_pb2.GetSyncRunRequest(name=name))
            return bool(seen.state == sources_pb2.SYNC_STATE_FAILED)

        await eventually(ended)


async def _announce_changes(shop: Shop) -> None:
    """A day is ahead of each version that is deployed, as the catalog says it."""
    home, nats = shop.platform.platform.home, shop.platform.addresses.nats
    bus = await Bus.connect(nats, home.nats_credential("catalog"), "catalog")
    for version in shop.versions:
        announced = catalog_events.VersionChangeAnnounced(
            model_version=version, change=lifecycle_pb2.VERSION_CHANGE_LEGACY, days_ahead=90
        )
        announced.change_time.FromMilliseconds(SystemClock().now_ms() + 90 * 86_400_000)
        await bus.publish(
            published_event(
                "catalog",
                "version",
                "change-announced",
                announced,
                project_uid=None,
                aggregate_uid=new_uid(),
                sequence=1,
                time=SystemClock().now(),
            )
        )
    await bus.close()


async def _register_models(shop: Shop) -> None:
    """Two models of the project's own, of the same two files."""
    admin, project = shop.platform.admin, shop.project.name
    with tempfile.TemporaryDirectory() as folder:
        for content in DOUBLER.values():
            path = Path(folder) / "file"
            path.write_bytes(content)
            await upload_file(admin, project, path)
    for model_id in ("doubler", "other"):
        request = registry_pb2.RegisterModelVersionRequest(parent=project, model_id=model_id, files=_doubler())
        await admin.registry.RegisterModelVersion(request)


def _doubler() -> list[registry_pb2.UploadedFile]:
    return [registry_pb2.UploadedFile(name=name, sha256=digest(data)) for name, data in DOUBLER.items()]


async def _publish_usage(shop: Shop) -> None:
    """One instance that lived for three hours, and a few calls."""
    home, nats = shop.platform.platform.home, shop.platform.addresses.nats
    prices = (await shop.platform.admin.billing.ListPrices(billing_pb2.ListPricesRequest(page_size=1000))).prices
    managed = next(price for price in prices if price.kind == billing_pb2.OFFER_KIND_MANAGED)
    now_ms = SystemClock().now_ms()
    instance, deployment = new_uid(), new_uid()
    began, ended = Timestamp(), Timestamp()
    began.FromMilliseconds(now_ms - 3 * 3_600_000)
    ended.FromMilliseconds(now_ms)
    facts = (
        (
            "allocated",
            events_pb2.InstanceAllocated(
                instance_uid=instance,
                project_uid=shop.project.uid,
                endpoint_uid=new_uid(),
                deployment_uid=deployment,
                deployment=f"{shop.project.name}/endpoints/e/deployments/d",
                model_version=shop.versions[0],
                instance_type=managed.resource,
                vcpus=1,
                price_version=managed.price_version,
                allocate_time=began,
            ),
        ),
        ("released", events_pb2.InstanceReleased(instance_uid=instance, release_time=ended, witness="exit")),
    )
    bus = await Bus.connect(nats, home.nats_credential("deploy"), "deploy")
    for sequence, (action, fact) in enumerate(facts):
        event = published_event(
            "deploy",
            "instance",
            action,
            fact,
            project_uid=shop.project.uid,
            aggregate_uid=instance,
            sequence=sequence,
            time=time_from_ms(now_ms),
        )
        await bus.publish(event)
    await bus.close()
    journal = new_uid()
    records = [
        usage_pb2.UsageRecord(
            id=new_uid(now_ms - position),
            journal_id=journal,
            journal_seq=position + 1,
            project_uid=shop.project.uid,
            endpoint_uid=new_uid(),
            deployment_uid=deployment,
            model_version=shop.versions[0],
            outcome=usage_pb2.OUTCOME_COMPLETED,
            occur_time=ended,
            quantities=[money_pb2.Quantity(meter=money_pb2.METER_REQUESTS, value=1)],
        )
        for position in range(USAGE_COUNT)
    ]
    bus = await Bus.connect(nats, home.nats_credential("inference"), "inference")
    await bus.publish(
        published_event(
            "inference",
            "usage",
            "recorded",
            usage_pb2.UsageBatch(records=records),
            project_uid=None,
            aggregate_uid=journal,
            sequence=USAGE_COUNT,
            time=time_from_ms(now_ms),
        )
    )
    for number in range(DEAD_LETTER_COUNT):
        headers = {"Nats-Msg-Id": f"{journal}-{number}"}
        await bus.publish_raw("modelyard.inference.v1.usage.recorded._", b"no usage", headers)
    await bus.close()


async def _wait_for_lists(shop: Shop) -> None:
    admin, project = shop.platform.admin, shop.project.name
    client = await shop.platform.client_of("nobody", key=shop.key)

    async def complete() -> bool:
        usage = (await admin.billing.ListUsage(billing_pb2.ListUsageRequest(parent=project))).usage
        bill = await admin.billing.GetBill(billing_pb2.GetBillRequest(parent=project))
        callables = (await client.inference.ListCallable(inference_pb2.ListCallableRequest())).callables
        instances = (await admin.deploy.ListInstances(deploy_pb2.ListInstancesRequest())).instances
        letters = await admin.dead_letters["billing"].ListDeadLetters(dead_letters_pb2.ListDeadLettersRequest())
        notices = (await admin.notices.ListNotices(notices_pb2.ListNoticesRequest(parent=project))).notices
        lines = [line.id for line in bill.lines if line.record_count > 1]
        shop.line = lines[0] if lines else ""
        counts = (
            len(usage) >= USAGE_COUNT,
            len(callables) >= len(shop.versions),
            len(instances) >= len(shop.versions),
            len(letters.dead_letters) >= DEAD_LETTER_COUNT,
            len(notices) >= len(shop.versions),
        )
        return bool(shop.line) and all(counts)

    await eventually(complete)


def list_request(shop: Shop, method: MethodDescriptor, project: str = "") -> Any:
    """A valid request for a list that holds something."""
    request = request_for(method, project or shop.project.name)
    if isinstance(request, deploy_pb2.ListDeploymentsRequest):
        request.parent += "/endpoints/-"
    elif isinstance(request, catalog_pb2.ListModelVersionsRequest):
        request.parent = shop.versions[0].partition("/versions/")[0]
    elif isinstance(request, governance_pb2.ListInstanceTypeFitsRequest):
        request.parent = shop.versions[0]
    elif isinstance(request, governance_pb2.ListPolicyRefusalsRequest):
        request.policy.allowed_publishers.append("publishers/nobody")
    elif isinstance(request, sources_pb2.ListSyncRunsRequest):
        request.parent = "sources/source-0"
    elif isinstance(request, billing_pb2.ExplainLineRequest):
        request.line = shop.line
    return request


def _endpoint(request: Any, shop: Shop, number: int) -> None:
    request.endpoint_id, request.kind = f"other-{number}-{new_uid()[-6:]}", deploy_pb2.ENDPOINT_KIND_MANAGED


def _deployment(request: Any, shop: Shop, number: int) -> None:
    version = shop.versions[0]
    request.parent += "/endpoints/endpoint-0"
    request.deployment_id, request.model_version = f"green-{number}-{new_uid()[-6:]}", version
    request.quote = shop.quotes[version]


def _project(request: Any, shop: Shop, number: int) -> None:
    request.project_id = f"other-{number}-{new_uid()[-6:]}"


def _api_key(request: Any, shop: Shop, number: int) -> None:
    request.endpoints.append(f"endpoint-{number % 2}")


def _quote(request: Any, shop: Shop, number: int) -> None:
    request.model_version = shop.versions[number % 2]


def _source(request: Any, shop: Shop, number: int) -> None:
    request.source_id = f"other-{number}-{new_uid()[-6:]}"
    request.source.CopyFrom(_a_source())


def _override(number: int) -> lifecycle_pb2.CreateNoticeOverrideRequest:
    return lifecycle_pb2.CreateNoticeOverrideRequest(
        model_version=f"{DATED[0]}/versions/1",
        dates=lifecycle_pb2.LifecycleDates(retirement=f"2030-01-{number + 1:02d}"),
        reason="a test of contracts",
    )


def _notice_override(request: Any, shop: Shop, number: int) -> None:
    request.MergeFrom(_override(number))


def _upload(request: Any, shop: Shop, number: int) -> None:
    request.size_bytes, request.sha256 = 1 + number, digest(new_uid().encode())


def _model_version(request: Any, shop: Shop, number: int) -> None:
    request.model_id, request.version_id = "doubler", f"{number}-{new_uid()[-6:]}"
    request.files.extend(_doubler())


_FILL: dict[str, Callable[[Any, Shop, int], None]] = {
    "CreateEndpointRequest": _endpoint,
    "CreateDeploymentRequest": _deployment,
    "CreateProjectRequest": _project,
    "CreateApiKeyRequest": _api_key,
    "CreateNoticeOverrideRequest": _notice_override,
    "CreateQuoteRequest": _quote,
    "CreateModelSourceRequest": _source,
    "CreateUploadRequest": _upload,
    "RegisterModelVersionRequest": _model_version,
}


def write_request(shop: Shop, method: MethodDescriptor, number: int, request_id: str) -> Any:
    """A valid write; another number makes another one."""
    request = request_for(method, shop.project.name)
    _FILL[method.input_type.name](request, shop, number)
    request.request_id = request_id
    return request
