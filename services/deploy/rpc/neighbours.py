"""What deploy asks of billing and the catalog before it accepts a deployment."""

from __future__ import annotations

from dataclasses import replace

import grpc
from modelyard.billing.v1 import billing_pb2, billing_pb2_grpc
from modelyard.catalog.v1 import catalog_pb2, governance_pb2, governance_pb2_grpc

from chassis.errors import InvalidArgument
from chassis.rpc import problem_from_rpc_error
from services.deploy.domain.errors import QuoteMismatch
from services.deploy.usecases.acceptance import Answers


class Neighbours:
    """Billing and the catalog, asked as the service `deploy`."""

    def __init__(self, billing: grpc.aio.Channel, catalog: grpc.aio.Channel) -> None:
        self._billing = billing_pb2_grpc.BillingServiceStub(billing)
        self._governance = governance_pb2_grpc.GovernanceServiceStub(catalog)

    async def check(self, project: str, model_version: str, instance_type: str = "") -> Answers:
        """What the catalog says of a version, for a project; without a type it is for the shared pool.

        Args:
            model_version: A model means its newest version.

        Raises:
            InvalidArgument: no version.
            Problem: what the catalog answered, such as MODEL_NOT_FOUND.
        """
        if not model_version:
            raise InvalidArgument("set model_version; `modelyard models` shows what there is", field="model_version")
        request = governance_pb2.CheckModelRequest(
            parent=f"projects/{project}",
            model_version=model_version,
            instance_type=instance_type,
            deployment_option=catalog_pb2.DEPLOYMENT_OPTION_MANAGED
            if instance_type
            else catalog_pb2.DEPLOYMENT_OPTION_SERVERLESS,
        )
        try:
            answer = await self._governance.CheckModel(request)
        except grpc.aio.AioRpcError as error:
            raise problem_from_rpc_error(error) from error
        shape = answer.instance_type if instance_type else None
        return Answers(billing_pb2.Quote(), answer.model_version, shape, answer.checks)

    async def quote(self, project: str, quote: str) -> billing_pb2.Quote:
        """A quote of a project.

        Raises:
            InvalidArgument: no quote.
            QuoteMismatch: a quote of another project; deploy asks as itself and could read it, so it must not.
            Problem: what billing answered, such as QUOTE_NOT_FOUND.
        """
        if not quote:
            raise InvalidArgument(
                "set quote: a deployment is created against one; `modelyard quote` makes it", field="quote"
            )
        if not quote.startswith(f"projects/{project}/quotes/"):
            raise QuoteMismatch(
                f"quote {quote[:200]!r} is not of project {project!r}; `modelyard quote` makes one", field="quote"
            )
        try:
            found: billing_pb2.Quote = await self._billing.GetQuote(billing_pb2.GetQuoteRequest(name=quote))
        except grpc.aio.AioRpcError as error:
            raise problem_from_rpc_error(error) from error
        return found

    async def ask(self, project: str, quote: str, model_version: str, instance_type: str) -> Answers:
        """The quote, and what the catalog says of the version and the type.

        Raises:
            Problem: see `quote` and `check`.
        """
        offered = await self.quote(project, quote)
        return replace(await self.check(project, model_version, instance_type), quote=offered)
