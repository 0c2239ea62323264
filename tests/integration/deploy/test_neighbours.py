"""What deploy asks of billing and the catalog before it accepts a deployment, over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from modelyard.billing.v1 import billing_pb2, billing_pb2_grpc
from modelyard.catalog.v1 import catalog_pb2, catalog_pb2_grpc

from chassis.errors import InvalidArgument, Problem
from chassis.rpc import service_channel
from services.deploy.domain.errors import ModelNotRunnable, QuoteMismatch
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


class Catalog(catalog_pb2_grpc.CatalogServiceServicer):
    """One model with two versions, of which the second is the newest."""

    async def GetModelVersion(
        self, request: catalog_pb2.GetModelVersionRequest, context: Any
    ) -> catalog_pb2.ModelVersion:
        return catalog_pb2.ModelVersion(name=request.name.replace("/latest", "/2"))

    async def GetInstanceType(
        self, request: catalog_pb2.GetInstanceTypeRequest, context: Any
    ) -> catalog_pb2.InstanceType:
        return catalog_pb2.InstanceType(name=request.name)


@pytest_asyncio.fixture
async def neighbours() -> AsyncIterator[Neighbours]:
    server = grpc.aio.server()
    billing_pb2_grpc.add_BillingServiceServicer_to_server(Billing(), server)
    catalog_pb2_grpc.add_CatalogServiceServicer_to_server(Catalog(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = service_channel(f"127.0.0.1:{port}", lambda: "token")
    yield Neighbours(channel, channel)
    await channel.close()
    await server.stop(0)


@pytest.mark.parametrize("asked", [MODEL, f"{MODEL}/versions/latest", f"{MODEL}/versions/2"])
async def test_serverless_takes_the_newest_version(neighbours: Neighbours, asked: str) -> None:
    """Named, or left to the catalog."""
    answers = await neighbours.ask("shop", QUOTE, asked, "")
    assert (answers.version.name, answers.instance_type) == (f"{MODEL}/versions/2", None)


async def test_serverless_takes_no_older_version(neighbours: Neighbours) -> None:
    """The message names the newest one and the way to the older."""
    with pytest.raises(ModelNotRunnable, match=f"newest version only, {MODEL}/versions/2; deploy .* of your own"):
        await neighbours.ask("shop", QUOTE, f"{MODEL}/versions/1", "")


@pytest.mark.parametrize(("asked", "then"), [(f"{MODEL}/versions/1", "1"), (MODEL, "2")])
async def test_managed_takes_any_version(neighbours: Neighbours, asked: str, then: str) -> None:
    """The newest where none is named."""
    answers = await neighbours.ask("shop", QUOTE, asked, TYPE)
    assert answers.version.name == f"{MODEL}/versions/{then}"
    assert answers.instance_type is not None


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
