"""Who may call what, asked of the running services for every RPC there is: no name of an RPC stands here."""

from __future__ import annotations

import dataclasses

import grpc
import jwt
import pytest
import pytest_asyncio
from google.protobuf.descriptor import MethodDescriptor
from modelyard.billing.v1 import billing_pb2
from modelyard.deploy.v1 import deploy_pb2
from modelyard.type.v1 import access_pb2

from chassis.access import issue_token, new_signing_key
from embedded.home import SERVICES
from tests.infra.platform import (
    Answer,
    PlatformUnderTest,
    ProjectUnderTest,
    access_rule,
    request_for,
    service_methods,
)

METHODS = service_methods()
IN_PROJECT = (
    access_pb2.ROLE_BILLING_READER,
    access_pb2.ROLE_READER,
    access_pb2.ROLE_CONTRIBUTOR,
    access_pb2.ROLE_OWNER,
)
REFUSALS = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
# What a broken handler answers; a request may be refused for anything else.
BROKEN = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


def methods_where(*, roles: set[int] | None = None, other_than: set[int] = frozenset()) -> pytest.MarkDecorator:
    chosen = [
        method
        for method in METHODS
        if (role := access_rule(method).role) not in other_than and (roles is None or role in roles)
    ]
    return pytest.mark.parametrize("method", chosen, ids=lambda method: method.full_name)


with_token = methods_where(other_than={access_pb2.ROLE_PUBLIC, access_pb2.ROLE_KEY})
with_key = methods_where(roles={access_pb2.ROLE_KEY})
in_project = methods_where(roles=set(IN_PROJECT))


@pytest_asyncio.fixture(scope="module")
async def project(platform: PlatformUnderTest) -> ProjectUnderTest:
    return await platform.new_project(IN_PROJECT)


@pytest_asyncio.fixture(scope="module")
async def other_project(platform: PlatformUnderTest) -> ProjectUnderTest:
    return await platform.new_project(IN_PROJECT)


def assert_refused(answer: Answer, code: grpc.StatusCode) -> None:
    assert answer.code is code
    assert answer.domain == "modelyard"
    assert answer.reason
    assert answer.message


@methods_where(other_than={access_pb2.ROLE_PUBLIC})
async def test_no_credential(platform: PlatformUnderTest, project: ProjectUnderTest, method: MethodDescriptor) -> None:
    """Nobody gets in without saying who they are."""
    assert_refused(await platform.call(method, request_for(method, project.name)), grpc.StatusCode.UNAUTHENTICATED)


@methods_where(other_than={access_pb2.ROLE_PUBLIC})
@pytest.mark.parametrize("kind", ["garbage", "expired", "signed by someone else", "of another audience"])
async def test_worthless_credential(
    platform: PlatformUnderTest, project: ProjectUnderTest, method: MethodDescriptor, kind: str
) -> None:
    """A token counts only while it is valid, and only from our own issuer."""
    credential = worthless(platform, kind)
    answer = await platform.call(method, request_for(method, project.name), credential)
    assert_refused(answer, grpc.StatusCode.UNAUTHENTICATED)
    assert credential not in answer.message


def worthless(platform: PlatformUnderTest, kind: str) -> str:
    if kind == "garbage":
        return "my_AAAAAAAA_garbage"
    if kind == "expired":
        return platform.token("admin", admin=True, expires_s=-60)
    if kind == "signed by someone else":
        return issue_token(new_signing_key()[0], "admin", expires_s=3600, admin=True)
    claims = {
        "iss": "modelyard",
        "aud": "elsewhere",
        "sub": "admin",
        "iat": 0,
        "exp": 2**40,
        "modelyard": {"admin": True},
    }
    return jwt.encode(claims, platform.platform.home.signing_key.read_text(), algorithm="EdDSA")


@in_project
async def test_too_weak_a_role(
    platform: PlatformUnderTest, project: ProjectUnderTest, method: MethodDescriptor
) -> None:
    """Every role below the rule's is refused; below the weakest stands a principal without a role."""
    weaker = [project.members[role] for role in IN_PROJECT if role < access_rule(method).role]
    for principal in [*weaker, "nobody"]:
        answer = await platform.call(method, request_for(method, project.name), platform.token(principal))
        assert_refused(answer, grpc.StatusCode.PERMISSION_DENIED)


@methods_where(roles={access_pb2.ROLE_ADMIN, access_pb2.ROLE_SERVICE})
async def test_owners_do_not_operate_the_platform(
    platform: PlatformUnderTest, project: ProjectUnderTest, method: MethodDescriptor
) -> None:
    """The strongest role within a project is none outside it."""
    owner = platform.token(project.members[access_pb2.ROLE_OWNER])
    assert_refused(await platform.call(method, request_for(method), owner), grpc.StatusCode.PERMISSION_DENIED)


@in_project
async def test_another_projects_owner(
    platform: PlatformUnderTest, project: ProjectUnderTest, other_project: ProjectUnderTest, method: MethodDescriptor
) -> None:
    """A project of others answers exactly like one that does not exist, by name and by uid."""
    owner = platform.token(other_project.members[access_pb2.ROLE_OWNER])
    missing = "projects/no-such-project"
    unknown = await platform.call(method, request_for(method, missing), owner)
    assert_refused(unknown, grpc.StatusCode.PERMISSION_DENIED)
    for name in (project.name, f"projects/{project.uid}"):
        foreign = await platform.call(method, request_for(method, name), owner)
        shown = foreign.message.replace(name.removeprefix("projects/"), missing.removeprefix("projects/"))
        assert dataclasses.replace(foreign, message=shown) == unknown


@with_token
async def test_services_are_named_in_the_rule(
    platform: PlatformUnderTest, project: ProjectUnderTest, method: MethodDescriptor
) -> None:
    """A service calls what names it, and nothing else; being a service is no role."""
    rule = access_rule(method)
    for service in (*SERVICES, "stranger"):
        token = platform.token(service, service=service)
        answer = await platform.call(method, request_for(method, project.name), token)
        if service in rule.services:
            assert answer.code not in REFUSALS | BROKEN
        else:
            assert_refused(answer, grpc.StatusCode.PERMISSION_DENIED)


@with_key
async def test_keys_are_no_tokens(platform: PlatformUnderTest, method: MethodDescriptor) -> None:
    """Not even an admin's token opens what inference keys open."""
    answer = await platform.call(method, request_for(method), platform.token("admin", admin=True))
    assert_refused(answer, grpc.StatusCode.UNAUTHENTICATED)


@with_token
async def test_tokens_are_no_keys(
    platform: PlatformUnderTest, project: ProjectUnderTest, method: MethodDescriptor, key: str
) -> None:
    """A leaked inference key reads and changes nothing of the control plane."""
    answer = await platform.call(method, request_for(method, project.name), key)
    assert_refused(answer, grpc.StatusCode.UNAUTHENTICATED)


@pytest_asyncio.fixture(scope="module")
async def key(platform: PlatformUnderTest, project: ProjectUnderTest) -> str:
    return await platform.new_key(project)


@with_key
async def test_a_key_is_enough(platform: PlatformUnderTest, method: MethodDescriptor, key: str) -> None:
    """A key gets past the guard; an empty request is refused for what it lacks, never by a broken handler."""
    assert (await platform.call(method, request_for(method), key)).code not in REFUSALS | BROKEN


@in_project
async def test_the_least_role_is_enough(platform: PlatformUnderTest, method: MethodDescriptor) -> None:
    """The rule's own role gets past the guard; an empty request is refused for what it lacks."""
    role = access_rule(method).role
    own = await platform.new_project([role])
    answer = await platform.call(method, request_for(method, own.name), platform.token(own.members[role]))
    assert answer.code not in REFUSALS | BROKEN
    assert answer.code is grpc.StatusCode.OK or (answer.domain == "modelyard" and answer.reason)


@methods_where(roles={access_pb2.ROLE_AUTHENTICATED})
async def test_any_principal_is_enough(platform: PlatformUnderTest, method: MethodDescriptor) -> None:
    """Discovery needs a valid token and no role."""
    assert (await platform.call(method, request_for(method), platform.token("nobody"))).code not in REFUSALS | BROKEN


@in_project
@pytest.mark.parametrize(
    "name", ["", "projects/", "projects/-", "project/shop", "projects/../shop", "projects/a b", "x" * 300]
)
async def test_a_request_names_one_project(platform: PlatformUnderTest, method: MethodDescriptor, name: str) -> None:
    """What names no project is told so, to admins too: nothing is ever done in none or in all of them."""
    answer = await platform.call(method, request_for(method, name), platform.token("admin", admin=True))
    assert_refused(answer, grpc.StatusCode.INVALID_ARGUMENT)
    assert answer.field == access_rule(method).project


@in_project
async def test_an_admin_of_a_missing_project(platform: PlatformUnderTest, method: MethodDescriptor) -> None:
    """An admin may know that a project does not exist."""
    answer = await platform.call(
        method, request_for(method, "projects/no-such-project"), platform.token("admin", admin=True)
    )
    assert_refused(answer, grpc.StatusCode.NOT_FOUND)


async def test_a_member_may_act_at_once(platform: PlatformUnderTest) -> None:
    """Whoever was added a moment ago is waited for by services that learn of it from deploy."""
    project = await platform.new_project()
    principal = "newcomer@example.com"
    client = await platform.client_of(principal)
    member = access_pb2.Member(principal=principal, role=access_pb2.ROLE_BILLING_READER)
    await platform.admin.projects.AddMember(deploy_pb2.AddMemberRequest(name=project.name, member=member))
    bill = await client.billing.GetBill(billing_pb2.GetBillRequest(parent=project.name))
    assert bill.project == project.name
