"""What deploy asks of billing and the catalog before it accepts a deployment."""

from __future__ import annotations

import grpc
from modelyard.billing.v1 import billing_pb2, billing_pb2_grpc
from modelyard.catalog.v1 import catalog_pb2, catalog_pb2_grpc

from chassis.errors import InvalidArgument
from chassis.rpc import problem_from_rpc_error
from services.deploy.domain.errors import ModelNotRunnable, QuoteMismatch
from services.deploy.usecases.deployments import Answers


class Neighbours:
    """Billing and the catalog, asked as the service `deploy`."""

    def __init__(self, billing: grpc.aio.Channel, catalog: grpc.aio.Channel) -> None:
        self._billing = billing_pb2_grpc.BillingServiceStub(billing)
        self._catalog = catalog_pb2_grpc.CatalogServiceStub(catalog)

    async def newest_version(self, model: str) -> catalog_pb2.ModelVersion:
        """The newest version of a model.

        Raises:
            Problem: what the catalog answered, such as MODEL_NOT_FOUND.
        """
        try:
            version: catalog_pb2.ModelVersion = await self._catalog.GetModelVersion(
                catalog_pb2.GetModelVersionRequest(name=f"{model}/versions/latest")
            )
        except grpc.aio.AioRpcError as error:
            raise problem_from_rpc_error(error) from error
        return version

    async def ask(self, project: str, quote: str, model_version: str, instance_type: str) -> Answers:
        """The quote, the version and the type; without a type the deployment is serverless.

        Raises:
            InvalidArgument: no quote.
            QuoteMismatch: a quote of another project.
            ModelNotRunnable: serverless takes the newest version only.
            Problem: what the neighbour answered, such as QUOTE_NOT_FOUND or MODEL_NOT_FOUND.
        """
        if not quote:
            raise InvalidArgument(
                "set quote: a deployment is created against one; `modelyard quote` makes it", field="quote"
            )
        if not quote.startswith(f"projects/{project}/quotes/"):
            raise QuoteMismatch(
                f"quote {quote[:200]!r} is not of project {project!r}; `modelyard quote` makes one", field="quote"
            )
        model, _, pinned = model_version.partition("/versions/")
        newest_name = f"{model}/versions/latest"
        # A serverless deployment always takes the newest; naming another one is a mistake to be told.
        version_name = model_version if pinned and instance_type else newest_name
        try:
            offered = await self._billing.GetQuote(billing_pb2.GetQuoteRequest(name=quote))
            version = await self._catalog.GetModelVersion(catalog_pb2.GetModelVersionRequest(name=version_name))
            shape = (
                await self._catalog.GetInstanceType(catalog_pb2.GetInstanceTypeRequest(name=instance_type))
                if instance_type
                else None
            )
        except grpc.aio.AioRpcError as error:
            raise problem_from_rpc_error(error) from error
        if shape is None and pinned and model_version not in (newest_name, version.name):
            raise ModelNotRunnable(
                f"a serverless deployment takes the newest version only, {version.name}; deploy "
                f"{model_version[:200]!r} on instances of your own",
                field="model_version",
            )
        return Answers(offered, version, shape)
