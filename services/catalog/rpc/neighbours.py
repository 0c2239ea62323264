"""What the catalog asks of billing and deploy, as itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from fractions import Fraction
from typing import Any

import grpc
from modelyard.billing.v1 import billing_pb2, billing_pb2_grpc
from modelyard.deploy.v1 import deploy_pb2, deploy_pb2_grpc
from modelyard.type.v1 import money_pb2

from chassis.rpc import problem_from_rpc_error
from services.catalog.domain.benchmarks import TokenPrice
from services.catalog.usecases.fits import Priced
from services.catalog.usecases.policies import Deployed

_PAGE = 1000
_MILLION = 1_000_000


class Neighbours:
    """Billing, which owns prices, and deploy, which owns deployments."""

    def __init__(self, billing: grpc.aio.Channel, deploy: grpc.aio.Channel) -> None:
        self._billing = billing_pb2_grpc.BillingServiceStub(billing)
        self._deploy = deploy_pb2_grpc.DeployServiceStub(deploy)

    async def hourly_prices(self) -> dict[str, Priced]:
        """The prices of instance types that are quoted now, by the type's id.

        Raises:
            Problem: DEPENDENCY_UNAVAILABLE while billing is away.
        """
        request = billing_pb2.ListPricesRequest(page_size=_PAGE, current_only=True, kind=billing_pb2.OFFER_KIND_MANAGED)
        return {
            price.resource.removeprefix("instanceTypes/"): Priced(price.price_version, price.rates[0])
            async for price in _every(self._billing.ListPrices, request, "prices")
            if price.rates
        }

    async def token_prices(self) -> dict[str, TokenPrice]:
        """The token prices that are quoted now, by model.

        Raises:
            Problem: DEPENDENCY_UNAVAILABLE while billing is away.
        """
        request = billing_pb2.ListPricesRequest(
            page_size=_PAGE, current_only=True, kind=billing_pb2.OFFER_KIND_SERVERLESS
        )
        found: dict[str, TokenPrice] = {}
        async for price in _every(self._billing.ListPrices, request, "prices"):
            rates = {rate.meter: Fraction(rate.amount) * _MILLION / rate.per for rate in price.rates}
            found[price.resource] = TokenPrice(
                rates.get(money_pb2.METER_INPUT_TOKENS), rates.get(money_pb2.METER_OUTPUT_TOKENS)
            )
        return found

    async def deployments(self, project: str) -> list[Deployed]:
        """Every deployment of a project, by its name.

        Raises:
            Problem: DEPENDENCY_UNAVAILABLE while deploy is away.
        """
        request = deploy_pb2.ListDeploymentsRequest(parent=f"projects/{project}/endpoints/-", page_size=_PAGE)
        return [
            Deployed(one.name, one.model_version)
            async for one in _every(self._deploy.ListDeployments, request, "deployments")
        ]


async def _every(method: Callable[[Any], Awaitable[Any]], request: Any, items: str) -> AsyncIterator[Any]:
    while True:
        try:
            page = await method(request)
        except grpc.aio.AioRpcError as error:
            raise problem_from_rpc_error(error) from error
        for item in getattr(page, items):
            yield item
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
