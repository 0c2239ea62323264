"""What billing asks the catalog before it quotes."""

from __future__ import annotations

import grpc
from modelyard.catalog.v1 import catalog_pb2, governance_pb2, governance_pb2_grpc

from chassis.errors import InvalidArgument, Problem
from chassis.rpc import problem_from_rpc_error
from chassis.rpc.checks import problem_from_checks
from services.billing.domain.errors import OfferNotAvailable
from services.billing.domain.prices import OfferKind
from services.billing.usecases.create_quote import Offered

_OPTIONS = {
    OfferKind.MANAGED: catalog_pb2.DEPLOYMENT_OPTION_MANAGED,
    OfferKind.SERVERLESS: catalog_pb2.DEPLOYMENT_OPTION_SERVERLESS,
}
# What the catalog says of deployments is said of offers here.
_REASONS = {"MODEL_NOT_RUNNABLE": OfferNotAvailable.reason}


class CatalogClient:
    """The catalog, asked as the service `billing`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._governance = governance_pb2_grpc.GovernanceServiceStub(channel)

    async def offered(self, project: str, model_version: str, instance_type: str) -> Offered:
        """What is to be quoted, and whether this project may have it.

        Args:
            model_version: A model means its newest version; empty for an instance type, whatever runs on it.
            instance_type: Empty for serverless.

        Raises:
            InvalidArgument: neither is set.
            Problem: what the catalog answered, such as MODEL_NOT_FOUND.
        """
        if not model_version and not instance_type:
            raise InvalidArgument(
                "set model_version for serverless, instance_type for managed compute, or both for one on the other",
                field="model_version",
            )
        kind = OfferKind.MANAGED if instance_type else OfferKind.SERVERLESS
        request = governance_pb2.CheckModelRequest(
            parent=f"projects/{project}",
            model_version=model_version,
            instance_type=instance_type,
            deployment_option=_OPTIONS[kind],
        )
        try:
            answer = await self._governance.CheckModel(request)
        except grpc.aio.AioRpcError as error:
            raise problem_from_rpc_error(error) from error
        support = answer.model_version.support
        return Offered(
            kind=kind,
            model_version=answer.model_version.name,
            instance_type=answer.instance_type.name,
            vcpus=answer.instance_type.vcpus,
            refusal=_refusal(answer),
            supported_by=support.supported_by,
            support_contact=support.contact,
            sla=support.sla,
            price_resource=answer.model_version.price_resource,
        )


def _refusal(answer: governance_pb2.CheckModelResponse) -> Problem | None:
    refusal = problem_from_checks(answer.checks)
    if refusal is not None:
        refusal.reason = _REASONS.get(refusal.reason, refusal.reason)
    return refusal
