"""What deploy asks of billing and the catalog before it accepts a deployment, over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from modelyard.billing.v1 import billing_pb2, billing_pb2_grpc
from modelyard.catalog.v1 import catalog_pb2, governance_pb2, governance_pb2_grpc
from modelyard.type.v1 import checks_pb2

from chassis.errors import InvalidArgument, Problem
from chassis.rpc import service_channel
from services.deploy.domain.errors import QuoteMismatch
from services.deploy.rpc.neighbours import Neighbours
from tests.integration.deploy.build import TYPE

MODEL = "publishers/acme/models/talker"
QUOTE = "projects/shop/quotes/q1"


class Billing(billing_pb2_grpc.BillingServiceServicer):
    """One quote."""

    async def GetQuote(self, request: billing_pb2.GetQuoteRequest, context: Any) -> billing_pb2.Quote:
        if request.name != QUOTE:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such quote")
        return billing_pb2.Quote(name=QUOTE)


class Governance(governance_pb2_grpc.GovernanceServiceServicer):
    """One model with two versions, of which the second is the newest; deprecated, and everything is said at once."""

    async def CheckModel(
        self, request: governance_pb2.CheckModelRequest, context: Any
    ) -> governance_pb2.CheckModelResponse:
        if not request.model_version.startswith(MODEL):
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        name = request.model_version if "/versions/" in request.model_version else f"{MODEL}/versions/2"
        way = catalog_pb2.DeploymentOption.Name(request.deployment_option)
        return governance_pb2.CheckModelResponse(
            checks=[checks_pb2.Check(reason="MODEL_DEPRECATED", message=f"{way} for {request.parent}")],
            model_version=catalog_pb2.ModelVersion(name=name),
            instance_type=catalog_pb2.InstanceType(name=request.instance_type) if request.instance_type else None,
        )


@pytest_asyncio.fixture
async def neighbours() -> AsyncIterator[Neighbours]:
    server = grpc.aio.server()
    billing_pb2_grpc.add_BillingServiceServicer_to_server(Billing(), server)
    governance_pb2_grpc.add_GovernanceServiceServicer_to_server(Governance(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = service_channel(f"127.0.0.1:{port}", lambda: "token")
    yield Neighbours(channel, channel)
    await channel.close()
    await server.stop(0)


@pytest.mark.parametrize(("instance_type", "way"), [(TYPE, "MANAGED"), ("", "SERVERLESS")])
async def test_the_catalog_is_asked_for_the_project(neighbours: Neighbours, instance_type: str, way: str) -> None:
    """Which way it is to be deployed follows from the type; what the catalog finds is taken over, not judged."""
    answers = await neighbours.ask("shop", QUOTE, MODEL, instance_type)
    assert (answers.quote.name, answers.version.name) == (QUOTE, f"{MODEL}/versions/2")
    assert (answers.instance_type is not None) == bool(instance_type)
    assert [check.message for check in answers.checks] == [f"DEPLOYMENT_OPTION_{way} for projects/shop"]


async def test_a_deployment_needs_a_version(neighbours: Neighbours) -> None:
    """The message says what there is."""
    with pytest.raises(InvalidArgument, match="modelyard models"):
        await neighbours.ask("shop", QUOTE, "", TYPE)


async def test_a_deployment_needs_a_quote(neighbours: Neighbours) -> None:
    """The message says what makes one."""
    with pytest.raises(InvalidArgument, match="modelyard quote"):
        await neighbours.ask("shop", "", MODEL, TYPE)


@pytest.mark.parametrize("quote", ["projects/bakery/quotes/q1", "q1", "projects/shopping/quotes/q1"])
async def test_a_quote_of_another_project_is_not_even_asked_for(neighbours: Neighbours, quote: str) -> None:
    """Deploy asks as itself and could read it, so it must not."""
    with pytest.raises(QuoteMismatch):
        await neighbours.ask("shop", quote, MODEL, TYPE)


async def test_what_a_neighbour_refuses_is_passed_on(neighbours: Neighbours) -> None:
    """With the neighbour's own code."""
    with pytest.raises(Problem) as refused:
        await neighbours.ask("shop", "projects/shop/quotes/none", MODEL, TYPE)
    assert refused.value.code.grpc_number == grpc.StatusCode.NOT_FOUND.value[0]
