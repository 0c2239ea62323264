"""GovernanceService: licences, policies, checks and fits, on both databases; prices come over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from modelyard.billing.v1 import billing_pb2, billing_pb2_grpc
from modelyard.catalog.v1 import catalog_pb2, governance_pb2
from modelyard.deploy.v1 import deploy_pb2, deploy_pb2_grpc
from modelyard.type.v1 import money_pb2

from chassis.access import AccessPolicy, Caller, TokenVerifier
from chassis.access.caller import CallerKind, set_current_caller
from chassis.database import Database
from chassis.errors import DependencyUnavailable, EtagMismatch, InvalidArgument, Problem
from chassis.rpc import service_channel
from services.catalog.domain.errors import InstanceTypeNotFound, LicenseDigestMismatch, ModelNotFound
from services.catalog.main import MIGRATIONS
from services.catalog.rpc.governance import GovernanceServicer
from services.catalog.rpc.naming import Naming
from services.catalog.rpc.neighbours import Neighbours
from services.catalog.storage.tables import CHASSIS
from services.catalog.usecases.sync_content import sync_content
from tests.clock import ManualClock
from tests.conftest import DatabaseFactory
from tests.integration.catalog.build import (
    MODEL_NAME,
    SOURCE,
    a_model,
    a_type,
    a_version,
    catalog_servicer,
    listed_only,
    write_content,
)

# Nobody asks for a project's own models here.
NAMING = Naming(AccessPolicy(TokenVerifier(None)))
PARENT, POLICY = "projects/shop", "projects/shop/policy"
TALKER = f"{MODEL_NAME}/versions/1"
HOUR_MS = 3_600_000
HARDWARE = {"vcpus": 1, "memory_gib": 3, "allowed": ["local-1", "odd-1", "nowhere-9"], "recommended": ["local-1"]}
TYPES = [
    a_type("big-8") | {"vcpus": 8, "memory_gib": 64},
    a_type("local-1", "local"),
    a_type("local-9", "local") | {"memory_gib": 2},
    {"id": "odd-1", "source": SOURCE},
]


class Billing(billing_pb2_grpc.BillingServiceServicer):
    """Two pages of hourly prices; one of them is stated for other cores than the catalog knows."""

    async def ListPrices(self, request: billing_pb2.ListPricesRequest, context: Any) -> billing_pb2.ListPricesResponse:
        assert request.current_only
        assert request.kind == billing_pb2.OFFER_KIND_MANAGED
        pages = {"": ("local-1", "0.1", 2), "next": ("local-9", "0.3", 3)}
        name, amount, vcpus = pages[request.page_token]
        rate = money_pb2.Rate(
            meter=money_pb2.METER_CORE_MILLISECONDS, currency="USD", amount=amount, per=vcpus * HOUR_MS
        )
        return billing_pb2.ListPricesResponse(
            prices=[billing_pb2.Price(price_version=f"list@1/{name}", resource=f"instanceTypes/{name}", rates=[rate])],
            next_page_token="" if request.page_token else "next",
        )


class Deploy(deploy_pb2_grpc.DeployServiceServicer):
    """One deployment of each of two models."""

    async def ListDeployments(
        self, request: deploy_pb2.ListDeploymentsRequest, context: Any
    ) -> deploy_pb2.ListDeploymentsResponse:
        assert request.parent == "projects/shop/endpoints/-"
        return deploy_pb2.ListDeploymentsResponse(
            deployments=[
                deploy_pb2.Deployment(name=f"{PARENT}/endpoints/e/deployments/{name}", model_version=version)
                for name, version in (("blue", TALKER), ("green", "publishers/acme/models/gated/versions/1"))
            ]
        )


@pytest_asyncio.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    """To a server that is billing and deploy in one."""
    server = grpc.aio.server()
    billing_pb2_grpc.add_BillingServiceServicer_to_server(Billing(), server)
    deploy_pb2_grpc.add_DeployServiceServicer_to_server(Deploy(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    opened = service_channel(f"127.0.0.1:{port}", lambda: "token")
    yield opened
    await opened.close()
    await server.stop(0)


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """A model whose licence is accepted first, one that runs here, and one that is only listed."""
    folder = tmp_path / "content"
    (folder / "licenses").mkdir(parents=True)
    for name in ("Strict", "Apache-2.0"):
        (folder / "licenses" / f"{name}.txt").write_text(f"The text of {name}.\n")
    return write_content(
        folder,
        a_model(versions=[a_version("1", inference_hardware=HARDWARE), a_version("2")]),
        a_model("gated", license="Strict", license_acceptance_required=True),
        listed_only("giant", collection="hub", license="MIT"),
        types=TYPES,
    )


@pytest_asyncio.fixture
async def database(make_database: DatabaseFactory, content: Path) -> Database:
    opened = await make_database(CHASSIS, MIGRATIONS)
    await sync_content(opened, ManualClock(), content)
    return opened


@pytest.fixture
def servicer(database: Database, channel: grpc.aio.Channel) -> GovernanceServicer:
    act_as("user:ann")
    return GovernanceServicer(database, ManualClock(), NAMING, Neighbours(channel, channel), policy_entries_max=10)


def act_as(principal: str, project: str = "shop") -> None:
    set_current_caller(Caller(principal, CallerKind.USER, project_uid=f"uid-{project}", project=project))


async def digest_of(database: Database, model: str) -> str:
    servicer = catalog_servicer(database)
    return (await servicer.GetModel(catalog_pb2.GetModelRequest(name=model), None)).license.digest


async def accept(servicer: GovernanceServicer, digest: str, model: str = "gated") -> governance_pb2.LicenseAcceptance:
    request = governance_pb2.AcceptLicenseRequest(parent=PARENT, model=f"publishers/acme/models/{model}", digest=digest)
    return await servicer.AcceptLicense(request, None)


async def check(servicer: GovernanceServicer, model: str = "gated", **asked: Any) -> governance_pb2.CheckModelResponse:
    version = f"publishers/acme/models/{model}" if model else ""
    return await servicer.CheckModel(
        governance_pb2.CheckModelRequest(parent=PARENT, model_version=version, **asked), None
    )


def refused(answer: governance_pb2.CheckModelResponse) -> list[str]:
    return [one.reason for one in answer.checks if not one.passed]


SERVERLESS = {"deployment_option": catalog_pb2.DEPLOYMENT_OPTION_SERVERLESS}
GATED = "publishers/acme/models/gated"


async def test_a_licence_is_accepted_once(database: Database, servicer: GovernanceServicer) -> None:
    """Before it, the model is refused; after it, who and when stand in the list, and a second one changes nothing."""
    digest = await digest_of(database, GATED)
    assert refused(await check(servicer, **SERVERLESS)) == ["LICENSE_NOT_ACCEPTED"]
    first = await accept(servicer, digest)
    act_as("user:bob")
    assert await accept(servicer, digest) == first
    listed = await servicer.ListLicenseAcceptances(governance_pb2.ListLicenseAcceptancesRequest(parent=PARENT), None)
    assert list(listed.license_acceptances) == [first]
    assert (first.principal, first.digest, first.license_id) == ("user:ann", digest, "Strict")
    assert (await check(servicer, **SERVERLESS)).allowed


async def test_another_project_accepts_for_itself(database: Database, servicer: GovernanceServicer) -> None:
    """An acceptance binds one project and no other."""
    await accept(servicer, await digest_of(database, GATED))
    act_as("user:eve", "bakery")
    assert refused(await check(servicer, **SERVERLESS)) == ["LICENSE_NOT_ACCEPTED"]


async def test_one_changed_byte_asks_again(database: Database, servicer: GovernanceServicer, content: Path) -> None:
    """What was accepted is a text, not a name; the old acceptance stays for the record."""
    read = await digest_of(database, GATED)
    await accept(servicer, read)
    (content / "licenses" / "Strict.txt").write_text("The text of Strict!\n")
    await sync_content(database, ManualClock(), content)
    assert refused(await check(servicer, **SERVERLESS)) == ["LICENSE_NOT_ACCEPTED"]
    with pytest.raises(LicenseDigestMismatch, match="read it again"):
        await accept(servicer, read)
    await accept(servicer, await digest_of(database, GATED))
    assert (await check(servicer, **SERVERLESS)).allowed


async def test_what_was_not_read_is_not_accepted(servicer: GovernanceServicer) -> None:
    """Another text, no text, no digest and no model."""
    for model, digest, error in (
        ("gated", "0" * 64, LicenseDigestMismatch),
        ("gated", "", InvalidArgument),
        ("gated", "not a digest", InvalidArgument),
        ("giant", "0" * 64, LicenseDigestMismatch),
        ("nobody", "0" * 64, ModelNotFound),
    ):
        with pytest.raises(error):
            await accept(servicer, digest, model)


async def test_a_policy_is_read_and_changed(servicer: GovernanceServicer) -> None:
    """Whole, with etag, by whom; the same again changes nothing, another on an old etag is refused."""
    empty = await servicer.GetPolicy(governance_pb2.GetPolicyRequest(name=POLICY), None)
    assert (empty.etag, empty.update_principal) == ("0", "")
    wanted = governance_pb2.Policy(name=POLICY, allowed_publishers=["publishers/b", "publishers/a"], etag="0")
    update = governance_pb2.UpdatePolicyRequest(policy=wanted)
    made = await servicer.UpdatePolicy(update, None)
    assert (list(made.allowed_publishers), made.etag) == (["publishers/a", "publishers/b"], "1")
    assert made.update_principal == "user:ann"
    assert await servicer.UpdatePolicy(update, None) == made
    with pytest.raises(EtagMismatch):
        await servicer.UpdatePolicy(
            governance_pb2.UpdatePolicyRequest(policy=governance_pb2.Policy(name=POLICY, etag="0")), None
        )
    assert await servicer.GetPolicy(governance_pb2.GetPolicyRequest(name=POLICY), None) == made


async def test_policies_that_say_nothing(servicer: GovernanceServicer) -> None:
    """What is no resource name, and what is too much; the field at fault is named."""
    refused_policies: list[tuple[dict[str, Any], str]] = [
        ({"allowed_collections": ["hub"]}, "policy.allowed_collections"),
        ({"allowed_publishers": ["publishers/"]}, "policy.allowed_publishers"),
        ({"blocked": ["talker"]}, "policy.blocked"),
        ({"allowed_licenses": ["x"] * 11}, "policy.allowed_licenses"),
    ]
    for policy, field in refused_policies:
        wanted = governance_pb2.Policy(name=POLICY, **policy)
        with pytest.raises(Problem) as caught:
            await servicer.UpdatePolicy(governance_pb2.UpdatePolicyRequest(policy=wanted), None)
        assert caught.value.field == field


DRY_RUNS: list[tuple[dict[str, Any], list[str], list[str], list[str]]] = [
    ({}, [], [], []),
    ({"allowed_collections": ["collections/curated"]}, ["giant"], [], []),
    ({"allowed_licenses": ["Apache-2.0", "Nope"]}, ["gated", "giant"], ["green"], ["Nope"]),
    ({"allowed_publishers": ["publishers/nobody"]}, ["gated", "giant", "talker"], ["blue", "green"], ["nobody"]),
    ({"blocked": [MODEL_NAME]}, ["talker"], ["blue"], []),
    ({"blocked": [TALKER, f"{GATED}/versions/7"]}, [], ["blue"], [f"{GATED}/versions/7"]),
]


async def test_dry_runs(servicer: GovernanceServicer) -> None:
    """What of the catalog and of what runs a policy would refuse, and which of its entries mean nothing."""
    for rules, models, deployments, unmatched in DRY_RUNS:
        policy = governance_pb2.Policy(**rules)
        answer = await servicer.CheckPolicy(governance_pb2.CheckPolicyRequest(parent=PARENT, policy=policy), None)
        assert (answer.model_count, answer.refused_model_count, answer.deployment_count) == (3, len(models), 2)
        assert [one.name.rpartition("/")[2] for one in answer.refused_deployments] == deployments
        assert list(answer.unmatched) == unmatched
        assert await refused_one_by_one(servicer, policy) == models
    assert not (await servicer.GetPolicy(governance_pb2.GetPolicyRequest(name=POLICY), None)).update_principal


async def refused_one_by_one(servicer: GovernanceServicer, policy: governance_pb2.Policy) -> list[str]:
    """The models that a policy refuses, each on a page of its own."""
    found, request = [], governance_pb2.ListPolicyRefusalsRequest(parent=PARENT, policy=policy, page_size=1)
    while True:
        page = await servicer.ListPolicyRefusals(request, None)
        assert all(one.rules for one in page.refusals)
        found += [one.name.rpartition("/")[2] for one in page.refusals]
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def test_a_policy_in_force(servicer: GovernanceServicer) -> None:
    """A refusal names the rule; a dry run without a policy tries the one that holds."""
    policy = governance_pb2.Policy(name=POLICY, blocked=[MODEL_NAME])
    await servicer.UpdatePolicy(governance_pb2.UpdatePolicyRequest(policy=policy), None)
    answer = await check(servicer, "talker", **SERVERLESS)
    assert refused(answer) == ["POLICY_REFUSED"]
    tried = await servicer.CheckPolicy(governance_pb2.CheckPolicyRequest(parent=PARENT), None)
    assert [one.rules for one in tried.refused_deployments] == [["blocked"]]


async def test_a_check_answers_everything(servicer: GovernanceServicer) -> None:
    """The version that is meant, the type, every answer, and which types of this platform would do."""
    answer = await check(servicer, "talker/versions/1", instance_type="instanceTypes/local-9")
    assert answer.model_version.name == TALKER
    assert answer.instance_type.name == "instanceTypes/local-9"
    assert refused(answer) == ["INSTANCE_TYPE_NOT_ALLOWED", "INSTANCE_TYPE_TOO_SMALL"]
    assert list(answer.fitting_instance_types) == ["instanceTypes/local-1"]
    assert answer.model_version.artifacts[0].uri == ""


async def test_services_learn_where_files_lie(servicer: GovernanceServicer) -> None:
    """Deploy starts instances from what the check answers; users get no paths."""
    set_current_caller(Caller("deploy", CallerKind.SERVICE, project_uid="uid-shop", project="shop"))
    answer = await check(servicer, "talker/versions/latest", **SERVERLESS)
    assert answer.model_version.name == f"{MODEL_NAME}/versions/2"
    assert answer.model_version.artifacts[0].uri.startswith("file:")


async def test_types_alone(servicer: GovernanceServicer) -> None:
    """What billing asks before it quotes a core-hour of whatever model."""
    answers = {
        name: await check(servicer, "", instance_type=f"instanceTypes/{name}") for name in ("local-1", "big-8", "odd-1")
    }
    assert {name: refused(answer) for name, answer in answers.items()} == {
        "local-1": [],
        "big-8": ["MODEL_NOT_RUNNABLE"],
        "odd-1": ["INSTANCE_TYPE_NOT_QUOTABLE"],
    }
    assert not any(answer.HasField("model_version") for answer in answers.values())


async def test_checks_of_nothing(servicer: GovernanceServicer) -> None:
    """A question that cannot be answered is refused, not answered with yes."""
    questions: list[tuple[dict[str, Any], type[Problem]]] = [
        ({"model": ""}, InvalidArgument),
        ({"model": "talker", "instance_type": "instanceTypes/local-1", **SERVERLESS}, InvalidArgument),
        ({"model": "talker", "deployment_option": 9}, InvalidArgument),
        ({"model": "a b"}, InvalidArgument),
        ({"model": "nobody"}, ModelNotFound),
        ({"model": "talker/versions/9"}, ModelNotFound),
        ({"model": "talker", "instance_type": "instanceTypes/none"}, InstanceTypeNotFound),
    ]
    for asked, error in questions:
        with pytest.raises(error):
            await check(servicer, **asked)


async def test_where_a_version_fits_and_what_it_costs(servicer: GovernanceServicer) -> None:
    """Each type once, in order, with an exact price; those that cannot be had say why."""
    found, token = [], ""
    while True:
        page = await servicer.ListInstanceTypeFits(
            governance_pb2.ListInstanceTypeFitsRequest(parent=TALKER, page_size=2, page_token=token), None
        )
        found += page.fits
        token = page.next_page_token
        if not token:
            break
    shown = {
        fit.name.removeprefix("instanceTypes/"): (
            fit.fits,
            fit.quotable,
            fit.core_hour_price,
            [refusal.reason for refusal in fit.refusals],
        )
        for fit in found
    }
    not_quotable, not_allowed = "INSTANCE_TYPE_NOT_QUOTABLE", "INSTANCE_TYPE_NOT_ALLOWED"
    assert shown == {
        "big-8": (False, False, "", [not_allowed, "MODEL_NOT_RUNNABLE", not_quotable]),
        "local-1": (True, True, "1/20", []),
        "local-9": (False, False, "1/10", [not_allowed, "INSTANCE_TYPE_TOO_SMALL", not_quotable]),
        "nowhere-9": (False, False, "", [not_quotable, not_quotable]),
        "odd-1": (False, False, "", [not_quotable, not_quotable]),
    }
    assert list(shown) == sorted(shown)
    assert [fit.name for fit in found if fit.recommended] == ["instanceTypes/local-1"]


async def test_without_billing_there_are_no_prices(database: Database) -> None:
    """A fit without its price would look free; nothing is answered until billing is back."""
    channel = service_channel("127.0.0.1:1", lambda: "token", deadline_s=2)
    act_as("user:ann")
    servicer = GovernanceServicer(database, ManualClock(), NAMING, Neighbours(channel, channel), policy_entries_max=10)
    with pytest.raises(Problem) as caught:
        await servicer.ListInstanceTypeFits(governance_pb2.ListInstanceTypeFitsRequest(parent=TALKER), None)
    assert caught.value.reason == DependencyUnavailable.reason
    assert refused(await check(servicer, "talker", **SERVERLESS)) == []
    await channel.close()
