"""The whole embedded platform for tests: every service is the real one, on SQLite and the real nats-server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from modelyard.billing.v1 import billing_pb2
from modelyard.catalog.v1 import (
    artifacts_pb2,
    catalog_pb2,
    governance_pb2,
    hub_pb2,
    imports_pb2,
    lifecycle_pb2,
    registry_pb2,
    sources_pb2,
)
from modelyard.deploy.v1 import deploy_pb2, notices_pb2
from modelyard.events.v1 import dead_letters_pb2
from modelyard.inference.v1 import inference_pb2, operations_pb2
from modelyard.type.v1 import access_pb2
from modelyard_client import Addresses, Modelyard, ModelyardError

from chassis.access import issue_token
from chassis.ids import new_uid
from embedded.platform import Platform, running_platform
from tests.infra.content import content_with_dates
from tests.infra.packages import installed_packages

# A change of a project or a key reaches every service in well under this.
ARRIVES_S_MAX = 10.0


@dataclass(frozen=True)
class ProjectUnderTest:
    """A project, and its members by role."""

    name: str
    uid: str
    members: dict[int, str]


@dataclass(frozen=True)
class Answer:
    """How one raw call ended; `reason`, `domain` and `field` are empty where the answer has none."""

    code: grpc.StatusCode
    message: str = ""
    reason: str = ""
    domain: str = ""
    field: str = ""
    response: Any = None


class PlatformUnderTest:
    """A running platform and ways to call it as anyone."""

    def __init__(self, platform: Platform, addresses: Addresses, admin: Modelyard) -> None:
        self.platform = platform
        self.addresses = addresses
        self.admin = admin
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._open = AsyncExitStack()

    def token(self, principal: str, *, admin: bool = False, service: str = "", expires_s: int = 3600) -> str:
        """A control-plane token for a principal, an admin or a service; with `expires_s` below 0 an expired one."""
        key = self.platform.home.signing_key.read_text()
        return issue_token(key, principal, expires_s=expires_s, admin=admin, service=service)

    async def client_of(self, principal: str, *, key: str | None = None) -> Modelyard:
        """A client that calls as this principal, closed with the platform."""
        return await self._open.enter_async_context(Modelyard(self.addresses, self.token(principal), key=key))

    async def new_project(self, roles: Iterable[int] = ()) -> ProjectUnderTest:
        """A project with one member a role, known to every service when this returns."""
        project_id = f"p{new_uid()[-12:]}"
        created = await self.admin.projects.CreateProject(deploy_pb2.CreateProjectRequest(project_id=project_id))
        members = {role: f"{access_pb2.Role.Name(role).lower()}@{project_id}" for role in roles}
        for role, principal in members.items():
            member = access_pb2.Member(principal=principal, role=role)
            await self.admin.projects.AddMember(deploy_pb2.AddMemberRequest(name=created.name, member=member))
        project = ProjectUnderTest(created.name, created.uid, members)
        for role, principal in members.items():
            await self._known_everywhere(project, principal, role)
        return project

    async def _known_everywhere(self, project: ProjectUnderTest, principal: str, role: int) -> None:
        client = await self.client_of(principal)

        async def taken() -> bool:
            await client.billing.ListUsage(billing_pb2.ListUsageRequest(parent=project.name))
            if role >= access_pb2.ROLE_READER:
                await client.governance.GetPolicy(governance_pb2.GetPolicyRequest(name=f"{project.name}/policy"))
            return True

        await eventually(taken)

    async def new_key(self, project: ProjectUnderTest) -> str:
        """An inference key for all endpoints of a project, known to inference when this returns."""
        made = await self.admin.projects.CreateApiKey(deploy_pb2.CreateApiKeyRequest(parent=project.name))
        client = await self.client_of("nobody", key=made.secret)

        async def taken() -> bool:
            await client.inference.ListCallable(inference_pb2.ListCallableRequest())
            return True

        await eventually(taken)
        return made.secret

    async def call(self, method: MethodDescriptor, request: Message, credential: str = "") -> Answer:
        """Call a method as it stands in its descriptor; of a stream the first response counts."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        metadata = (("authorization", f"Bearer {credential}"),) if credential else ()
        codec = {
            "request_serializer": lambda message: message.SerializeToString(),
            "response_deserializer": GetMessageClass(method.output_type).FromString,
        }
        channel = self._channel(method.containing_service.file.package.split(".")[1])
        try:
            if method.server_streaming:
                call = channel.unary_stream(path, **codec)(request, metadata=metadata, timeout=20)
                response = await call.read()
                call.cancel()
            else:
                response = await channel.unary_unary(path, **codec)(request, metadata=metadata, timeout=20)
        except grpc.aio.AioRpcError as failed:
            return _answer(failed)
        return Answer(grpc.StatusCode.OK, response=response)

    def _channel(self, service: str) -> grpc.aio.Channel:
        # Dead letters are asked of every service that consumes events, alike; of billing here.
        service = "billing" if service == "events" else service
        if service not in self._channels:
            self._channels[service] = grpc.aio.insecure_channel(getattr(self.addresses, service))
        return self._channels[service]

    async def close(self) -> None:
        """Close what was opened here."""
        await self._open.aclose()
        for channel in self._channels.values():
            await channel.close()


def service_methods() -> list[MethodDescriptor]:
    """Every RPC of the platform's own contracts, in the order they are declared."""
    catalog = (
        artifacts_pb2,
        catalog_pb2,
        governance_pb2,
        hub_pb2,
        imports_pb2,
        lifecycle_pb2,
        registry_pb2,
        sources_pb2,
    )
    files = (*catalog, deploy_pb2, notices_pb2, billing_pb2, inference_pb2, operations_pb2, dead_letters_pb2)
    return [
        method for file in files for service in file.DESCRIPTOR.services_by_name.values() for method in service.methods
    ]


def access_rule(method: MethodDescriptor) -> access_pb2.AccessRule:
    """Who may call it."""
    rule: access_pb2.AccessRule = method.GetOptions().Extensions[access_pb2.access]
    return rule


def request_for(method: MethodDescriptor, project: str = "") -> Any:
    """An otherwise empty request whose project field names this project."""
    request = GetMessageClass(method.input_type)()
    holder: Any = request
    *path, last = access_rule(method).project.split(".")
    for step in path:
        holder = getattr(holder, step)
    if last:
        setattr(holder, last, project)
    return request


def _answer(failed: grpc.aio.AioRpcError) -> Answer:
    reason = domain = field = ""
    status = rpc_status.from_call(failed)
    for detail in status.details if status is not None else ():
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason, domain = info.reason, info.domain
        elif detail.Unpack(bad):
            field = bad.field_violations[0].field
    return Answer(failed.code(), failed.details() or "", reason, domain, field)


async def eventually(holds: Callable[[], Awaitable[bool]], *, s_max: float = ARRIVES_S_MAX) -> None:
    """Wait until something holds; what it asks may still be on its way, so a refusal counts as not yet."""
    give_up_at = monotonic() + s_max
    while True:
        try:
            if await holds():
                return
            refused: Exception = TimeoutError(f"does not hold within {s_max:g} s")
        except ModelyardError as error:
            refused = error
        if monotonic() > give_up_at:
            raise refused
        await asyncio.sleep(0.02)


@asynccontextmanager
async def platform_under_test(data_dir: Path) -> AsyncIterator[PlatformUnderTest]:
    """A platform for the length of the block; what its parts said is in `<part>.log` beside its data."""

    def keep(part: str, line: str) -> None:
        with (data_dir.parent / f"{part}.log").open("a") as log:
            log.write(f"{line}\n")

    # Refusals of strangers wait for what may be on its way; hundreds of tests would wait with them.
    quick = {f"MODELYARD_{service}_ACCESS_ARRIVE_S": "0.3" for service in ("BILLING", "CATALOG", "INFERENCE")}
    # Every shipped model that can run here does.
    packages = {f"MODELYARD_{service}_PACKAGES_DIR": str(installed_packages()) for service in ("CATALOG", "DEPLOY")}
    content = {"MODELYARD_CATALOG_CONTENT_DIR": str(content_with_dates(data_dir.parent / "content"))}
    async with running_platform(data_dir, keep, {**os.environ, **quick, **packages, **content}) as platform:
        addresses = Addresses.read(platform.home.addresses)
        async with Modelyard.from_file(platform.home.addresses) as admin:
            under_test = PlatformUnderTest(platform, addresses, admin)
            try:
                yield under_test
            finally:
                await under_test.close()
