"""What billing asks the catalog before it quotes, and what it makes of the answer, over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from modelyard.catalog.v1 import catalog_pb2, governance_pb2, governance_pb2_grpc
from modelyard.type.v1 import checks_pb2

from chassis.errors import Code, InvalidArgument, Problem
from chassis.rpc import service_channel
from services.billing.domain.prices import OfferKind
from services.billing.rpc.catalog_client import CatalogClient

MODEL = "publishers/acme/models/talker"
TYPE = "instanceTypes/small"


class Governance(governance_pb2_grpc.GovernanceServiceServicer):
    """Answers with what it is told to find."""

    def __init__(self) -> None:
        self.checks: list[checks_pb2.Check] = []
        self.asked = governance_pb2.CheckModelRequest()

    async def CheckModel(
        self, request: governance_pb2.CheckModelRequest, context: Any
    ) -> governance_pb2.CheckModelResponse:
        if request.parent != "projects/shop":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such project")
        self.asked = request
        version = catalog_pb2.ModelVersion(name=f"{MODEL}/versions/2") if request.model_version else None
        shape = catalog_pb2.InstanceType(name=TYPE, vcpus=2) if request.instance_type else None
        return governance_pb2.CheckModelResponse(checks=self.checks, model_version=version, instance_type=shape)


@pytest.fixture
def governance() -> Governance:
    return Governance()


@pytest_asyncio.fixture
async def client(governance: Governance) -> AsyncIterator[CatalogClient]:
    server = grpc.aio.server()
    governance_pb2_grpc.add_GovernanceServiceServicer_to_server(governance, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = service_channel(f"127.0.0.1:{port}", lambda: "token")
    yield CatalogClient(channel)
    await channel.close()
    await server.stop(0)


@pytest.mark.parametrize(
    ("version", "instance_type", "kind", "priced"),
    [
        (MODEL, "", OfferKind.SERVERLESS, MODEL),
        ("", TYPE, OfferKind.MANAGED, TYPE),
        (f"{MODEL}/versions/2", TYPE, OfferKind.MANAGED, TYPE),
    ],
)
async def test_what_is_quoted(
    client: CatalogClient, governance: Governance, version: str, instance_type: str, kind: OfferKind, priced: str
) -> None:
    """A model's tokens, a type's core-hour, or one model on one type: the way to deploy follows, and what is priced."""
    offered = await client.offered("shop", version, instance_type)
    assert (offered.kind, offered.priced_resource, offered.refusal) == (kind, priced, None)
    assert offered.model_version == (f"{MODEL}/versions/2" if version else "")
    assert offered.vcpus == (2 if instance_type else 0)
    assert governance.asked.deployment_option == int(kind)


async def test_a_refusal_keeps_its_reason(client: CatalogClient, governance: Governance) -> None:
    """The gravest is the reason, and all of them are told."""
    governance.checks = [
        checks_pb2.Check(subject="stage", passed=True, message="fine"),
        checks_pb2.Check(subject="policy", reason="POLICY_REFUSED", message="a rule refuses it"),
        checks_pb2.Check(subject="licence", reason="LICENSE_NOT_ACCEPTED", message="accept its text"),
    ]
    refusal = (await client.offered("shop", MODEL, "")).refusal
    assert refusal is not None
    assert (refusal.code, refusal.reason) == (Code.FAILED_PRECONDITION, "POLICY_REFUSED")
    assert refusal.metadata == {"reasons": "POLICY_REFUSED,LICENSE_NOT_ACCEPTED"}
    assert refusal.message == "a rule refuses it. Also: accept its text"


async def test_what_cannot_run_is_no_offer(client: CatalogClient, governance: Governance) -> None:
    """Billing's own word for it has been in its contract all along."""
    governance.checks = [checks_pb2.Check(reason="MODEL_NOT_RUNNABLE", message="no GPU here")]
    refusal = (await client.offered("shop", MODEL, "")).refusal
    assert refusal is not None
    assert refusal.reason == "OFFER_NOT_AVAILABLE"


async def test_nothing_to_quote(client: CatalogClient) -> None:
    """The message says what may be set."""
    with pytest.raises(InvalidArgument, match="serverless, instance_type for managed"):
        await client.offered("shop", "", "")


async def test_what_the_catalog_refuses_is_passed_on(client: CatalogClient) -> None:
    """With the catalog's own code."""
    with pytest.raises(Problem) as refused:
        await client.offered("bakery", MODEL, "")
    assert refused.value.code is Code.NOT_FOUND
