"""GovernanceService."""

from __future__ import annotations

from typing import Any

from modelyard.catalog.v1 import catalog_pb2, governance_pb2, governance_pb2_grpc

from chassis.access import current_caller
from chassis.access.caller import CallerKind
from chassis.clock import Clock
from chassis.database import Database
from chassis.errors import InvalidArgument
from chassis.names import ResourcePattern
from chassis.paging import page_size, page_token_decode, page_token_encode, split_page
from chassis.rpc.checks import check_to_proto
from chassis.timestamps import timestamp
from services.catalog.domain.checks import Option
from services.catalog.domain.names import COLLECTION, INSTANCE_TYPE, MODEL, PUBLISHER
from services.catalog.domain.policy import Policy, check_policy
from services.catalog.rpc.convert import instance_type_to_proto, version_to_proto
from services.catalog.rpc.naming import Naming, asked_within
from services.catalog.rpc.neighbours import Neighbours
from services.catalog.storage.queries import governance
from services.catalog.storage.tables import LicenseAcceptanceRow, PolicyRow
from services.catalog.usecases.check_model import check_model
from services.catalog.usecases.find import find_version
from services.catalog.usecases.fits import Fit, instance_type_fits
from services.catalog.usecases.licenses import accept_license
from services.catalog.usecases.policies import (
    Refused,
    policy_in_force,
    refused_models,
    try_policy,
    update_policy,
)

Context = Any
POLICY = ResourcePattern("projects/{project}/policy")
_DIGEST_LENGTH = 64
_OPTIONS = {
    catalog_pb2.DEPLOYMENT_OPTION_UNSPECIFIED: None,
    catalog_pb2.DEPLOYMENT_OPTION_MANAGED: Option.MANAGED,
    catalog_pb2.DEPLOYMENT_OPTION_SERVERLESS: Option.SERVERLESS,
}


class GovernanceServicer(governance_pb2_grpc.GovernanceServiceServicer):
    """What a project may take into use; the project is the one the interceptor resolved.

    Args:
        policy_entries_max: Entries in each list of a policy.
    """

    def __init__(
        self, database: Database, clock: Clock, naming: Naming, neighbours: Neighbours, *, policy_entries_max: int
    ) -> None:
        self._database = database
        self._clock = clock
        self._naming = naming
        self._neighbours = neighbours
        self._policy_entries_max = policy_entries_max

    async def AcceptLicense(
        self, request: governance_pb2.AcceptLicenseRequest, context: Context
    ) -> governance_pb2.LicenseAcceptance:
        MODEL.parse(request.model, "model")
        if len(request.digest) != _DIGEST_LENGTH or not request.digest.isalnum():
            raise InvalidArgument(
                f"digest {request.digest[:64]!r} is no SHA-256 in lower-case hex; `modelyard licenses show` tells it",
                field="digest",
            )
        caller = current_caller()
        row = await accept_license(
            self._database,
            self._clock,
            principal=caller.principal,
            project_uid=caller.project_uid,
            model_name=request.model,
            digest=request.digest,
        )
        return _acceptance_to_proto(row, caller.project)

    async def ListLicenseAcceptances(
        self, request: governance_pb2.ListLicenseAcceptancesRequest, context: Context
    ) -> governance_pb2.ListLicenseAcceptancesResponse:
        caller = current_caller()
        scope = f"ListLicenseAcceptances/{caller.project_uid}"
        (after,) = page_token_decode(request.page_token, scope, ("",))
        limit = page_size(request.page_size)
        async with self._database.reader() as session:
            found = await governance.acceptances_page(session, caller.project_uid, after, limit + 1)
        rows, more = split_page(found, limit)
        return governance_pb2.ListLicenseAcceptancesResponse(
            license_acceptances=[_acceptance_to_proto(row, caller.project) for row in rows],
            next_page_token=page_token_encode(scope, [rows[-1].digest]) if more else "",
        )

    async def GetPolicy(self, request: governance_pb2.GetPolicyRequest, context: Context) -> governance_pb2.Policy:
        POLICY.parse(request.name)
        caller = current_caller()
        async with self._database.reader() as session:
            row = await governance.policy(session, caller.project_uid)
        return _policy_to_proto(row, caller.project)

    async def UpdatePolicy(
        self, request: governance_pb2.UpdatePolicyRequest, context: Context
    ) -> governance_pb2.Policy:
        POLICY.parse(request.policy.name, "policy.name")
        caller = current_caller()
        row = await update_policy(
            self._database,
            self._clock,
            principal=caller.principal,
            project_uid=caller.project_uid,
            policy=_policy_from_proto(request.policy),
            etag=request.policy.etag,
            entries_max=self._policy_entries_max,
        )
        return _policy_to_proto(row, caller.project)

    async def CheckPolicy(
        self, request: governance_pb2.CheckPolicyRequest, context: Context
    ) -> governance_pb2.CheckPolicyResponse:
        caller = current_caller()
        policy = await self._policy_to_try(request)
        deployed = await self._neighbours.deployments(caller.project)
        async with self._database.reader() as session:
            tried = await try_policy(session, caller.project_uid, policy, deployed)
        return governance_pb2.CheckPolicyResponse(
            model_count=tried.model_count,
            refused_model_count=tried.refused_model_count,
            deployment_count=tried.deployment_count,
            refused_deployments=[_refusal_to_proto(one) for one in tried.refused_deployments],
            unmatched=tried.unmatched,
        )

    async def ListPolicyRefusals(
        self, request: governance_pb2.ListPolicyRefusalsRequest, context: Context
    ) -> governance_pb2.ListPolicyRefusalsResponse:
        project_uid = current_caller().project_uid
        policy = await self._policy_to_try(request)
        scope = f"ListPolicyRefusals/{project_uid}/{policy}"
        (after,) = page_token_decode(request.page_token, scope, ("",))
        limit = page_size(request.page_size)
        async with self._database.reader() as session:
            found = await refused_models(session, project_uid, policy, after, limit + 1)
        page, more = split_page(found, limit)
        return governance_pb2.ListPolicyRefusalsResponse(
            refusals=[_refusal_to_proto(one) for one in page],
            next_page_token=page_token_encode(scope, [page[-1].name]) if more else "",
        )

    async def CheckModel(
        self, request: governance_pb2.CheckModelRequest, context: Context
    ) -> governance_pb2.CheckModelResponse:
        caller = current_caller()
        option, type_id = self._wanted(request)
        version = request.model_version and asked_within(caller, request.model_version, "model_version").name
        now = self._clock.now()
        async with self._database.reader() as session:
            checked = await check_model(
                session,
                now,
                project_uid=caller.project_uid,
                project=caller.project,
                version_name=version,
                instance_type=type_id,
                option=option,
            )
        named, shape = checked.named, checked.instance_type
        as_service = caller.kind is CallerKind.SERVICE
        return governance_pb2.CheckModelResponse(
            allowed=all(finding.problem is None for finding in checked.findings),
            checks=[check_to_proto(one.subject, one.message, one.problem) for one in checked.findings],
            model_version=version_to_proto(named.version, named.model, now, with_location=as_service)
            if named
            else None,
            instance_type=instance_type_to_proto(shape) if shape else None,
            fitting_instance_types=[INSTANCE_TYPE.format(instance_type=name) for name in checked.fitting],
        )

    async def ListInstanceTypeFits(
        self, request: governance_pb2.ListInstanceTypeFitsRequest, context: Context
    ) -> governance_pb2.ListInstanceTypeFitsResponse:
        asked = await self._naming.either(request, "parent")
        scope = f"ListInstanceTypeFits/{asked.name}"
        (after,) = page_token_decode(request.page_token, scope, ("",))
        limit = page_size(request.page_size)
        prices = await self._neighbours.hourly_prices()
        async with self._database.reader() as session:
            named = await find_version(session, asked.name, asked.project_uid, field="parent")
            fits = await instance_type_fits(session, named, prices)
        page, more = split_page([fit for fit in fits if fit.shape.id > after][: limit + 1], limit)
        return governance_pb2.ListInstanceTypeFitsResponse(
            fits=[_fit_to_proto(fit) for fit in page],
            next_page_token=page_token_encode(scope, [page[-1].shape.id]) if more else "",
        )

    def _wanted(self, request: governance_pb2.CheckModelRequest) -> tuple[Option | None, str]:
        """The way to deploy and the id of the instance type.

        Raises:
            InvalidArgument: neither a model nor a type, or a type for serverless.
        """
        if not request.model_version and not request.instance_type:
            raise InvalidArgument("set model_version, instance_type or both", field="model_version")
        if request.deployment_option not in _OPTIONS:
            raise InvalidArgument(
                f"deployment_option {request.deployment_option} is not known here; 0 to {max(_OPTIONS)} are",
                field="deployment_option",
            )
        option = _OPTIONS[request.deployment_option]
        if not request.instance_type:
            return option, ""
        if option is Option.SERVERLESS:
            raise InvalidArgument("serverless deployments have no instance_type; leave it empty", field="instance_type")
        return Option.MANAGED, INSTANCE_TYPE.parse(request.instance_type, "instance_type")["instance_type"]

    async def _policy_to_try(
        self, request: governance_pb2.CheckPolicyRequest | governance_pb2.ListPolicyRefusalsRequest
    ) -> Policy:
        if request.HasField("policy"):
            return check_policy(_policy_from_proto(request.policy), self._policy_entries_max)
        async with self._database.reader() as session:
            return await policy_in_force(session, current_caller().project_uid)


def _acceptance_to_proto(row: LicenseAcceptanceRow, project: str) -> governance_pb2.LicenseAcceptance:
    return governance_pb2.LicenseAcceptance(
        name=f"projects/{project}/licenseAcceptances/{row.digest}",
        license_id=row.license_id,
        digest=row.digest,
        model=row.model,
        principal=row.principal,
        accept_time=timestamp(row.accept_time),
    )


def _policy_to_proto(row: PolicyRow | None, project: str) -> governance_pb2.Policy:
    name = POLICY.format(project=project)
    if row is None:
        return governance_pb2.Policy(name=name, etag="0")
    return governance_pb2.Policy(
        name=name,
        allowed_collections=[COLLECTION.format(collection=entry) for entry in row.allowed_collections],
        allowed_publishers=[PUBLISHER.format(publisher=entry) for entry in row.allowed_publishers],
        allowed_licenses=row.allowed_licenses,
        blocked=row.blocked,
        etag=str(row.revision),
        update_principal=row.principal,
        update_time=timestamp(row.update_time),
    )


def _policy_from_proto(policy: governance_pb2.Policy) -> Policy:
    """The rules of a policy.

    Raises:
        InvalidArgument: an entry that is no resource name.
    """
    for name in policy.blocked:
        asked_within(current_caller(), name, "policy.blocked")
    return Policy(
        allowed_collections=tuple(
            COLLECTION.parse(name, "policy.allowed_collections")["collection"] for name in policy.allowed_collections
        ),
        allowed_publishers=tuple(
            PUBLISHER.parse(name, "policy.allowed_publishers")["publisher"] for name in policy.allowed_publishers
        ),
        allowed_licenses=tuple(policy.allowed_licenses),
        blocked=tuple(policy.blocked),
    )


def _refusal_to_proto(refused: Refused) -> governance_pb2.PolicyRefusal:
    return governance_pb2.PolicyRefusal(name=refused.name, model_version=refused.model_version, rules=refused.rules)


def _fit_to_proto(fit: Fit) -> governance_pb2.InstanceTypeFit:
    name = INSTANCE_TYPE.format(instance_type=fit.shape.id)
    shown = governance_pb2.InstanceTypeFit(
        name=name,
        instance_type=instance_type_to_proto(fit.row) if fit.row else catalog_pb2.InstanceType(name=name),
        fits=fit.fits,
        quotable=fit.quotable,
        refusals=[check_to_proto("instance type", why.message, why) for why in fit.refusals],
        recommended=fit.recommended,
    )
    if fit.price is not None:
        shown.hourly_price, shown.currency = fit.price.rate.amount, fit.price.rate.currency
        shown.price_version = fit.price.price_version
        shown.rate.CopyFrom(fit.price.rate)
        if fit.shape.is_known:
            exact = fit.price.core_hour_price
            shown.core_hour_price = f"{exact.numerator}/{exact.denominator}"
    return shown
