"""What billing asks the catalog before it quotes."""

from __future__ import annotations

import grpc
from modelyard.catalog.v1 import catalog_pb2, catalog_pb2_grpc

from chassis.errors import InvalidArgument
from chassis.rpc import problem_from_rpc_error
from services.billing.domain.prices import OfferKind
from services.billing.usecases.create_quote import Offered

_STAGES = {
    catalog_pb2.LIFECYCLE_STAGE_DEPRECATED: "DEPRECATED",
    catalog_pb2.LIFECYCLE_STAGE_RETIRED: "RETIRED",
}
_OPTIONS = {
    OfferKind.MANAGED: catalog_pb2.DEPLOYMENT_OPTION_MANAGED,
    OfferKind.SERVERLESS: catalog_pb2.DEPLOYMENT_OPTION_SERVERLESS,
}


class CatalogClient:
    """The catalog, asked as the service `billing`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._catalog = catalog_pb2_grpc.CatalogServiceStub(channel)

    async def offered(self, model_version: str, instance_type: str) -> Offered:
        """What is to be quoted: exactly one of the two is set.

        Raises:
            InvalidArgument: both or neither are set.
            Problem: what the catalog answered, such as MODEL_NOT_FOUND.
        """
        if bool(model_version) == bool(instance_type):
            raise InvalidArgument(
                "set model_version for serverless or instance_type for managed compute, one of the two",
                field="model_version",
            )
        try:
            if model_version:
                return await self._version(model_version)
            return await self._type(instance_type)
        except grpc.aio.AioRpcError as error:
            raise problem_from_rpc_error(error) from error

    async def _version(self, name: str) -> Offered:
        if "/versions/" not in name:
            name = f"{name}/versions/latest"
        return offered_version(await self._catalog.GetModelVersion(catalog_pb2.GetModelVersionRequest(name=name)))

    async def _type(self, name: str) -> Offered:
        return offered_type(await self._catalog.GetInstanceType(catalog_pb2.GetInstanceTypeRequest(name=name)))


def offered_version(version: catalog_pb2.ModelVersion) -> Offered:
    """Serverless use of a version."""
    refusal = ""
    if _OPTIONS[OfferKind.SERVERLESS] not in version.deployment_options:
        refusal = "its publisher offers it for managed compute only"
    elif version.usability != catalog_pb2.USABILITY_RUNS_HERE:
        refusal = version.usability_detail or "it cannot run on this platform"
    return Offered(version.name, OfferKind.SERVERLESS, 0, _STAGES.get(version.stage, ""), refusal)


def offered_type(shape: catalog_pb2.InstanceType) -> Offered:
    """Managed use of an instance type."""
    refusal = "" if shape.provider else "no compute provider of this platform has it"
    return Offered(shape.name, OfferKind.MANAGED, shape.vcpus, "", refusal)
