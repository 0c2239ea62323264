"""Quote one unit: a version's tokens, or a type's core-hour."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from modelyard.billing.v1 import billing_pb2
from sqlalchemy.exc import IntegrityError

from chassis.clock import Clock
from chassis.database import Database
from chassis.errors import Problem
from chassis.ids import new_uid
from chassis.rpc.idempotency import answered_before, remember_answer
from services.billing.domain.prices import OfferKind, Price, check_same_shape, current_price
from services.billing.events.published import quote_created
from services.billing.storage import reads
from services.billing.storage.tables import QuoteRow


@dataclass(frozen=True, slots=True)
class Offered:
    """What the catalog says of what is to be quoted."""

    kind: OfferKind
    # `publishers/*/models/*/versions/*`, or of a project's own, with `latest` resolved; empty for a type, whatever runs on it.
    model_version: str
    # `instanceTypes/*`; empty for serverless.
    instance_type: str
    # Cores of the type; 0 for serverless.
    vcpus: int
    # Why it may not be deployed by this project; None where it may.
    refusal: Problem | None
    # Who answers for the model, where to find them, and what they promise; empty for a type.
    supported_by: str = ""
    support_contact: str = ""
    sla: str = ""
    # What price lists name for the version's tokens, where that is not the model itself: `ownModels/*`.
    price_resource: str = ""

    @property
    def priced_resource(self) -> str:
        """What price lists name: the type, a class of models, or the model and not its version."""
        return self.instance_type or self.price_resource or self.model_version.partition("/versions/")[0]


Ask = Callable[[], Awaitable[Offered]]
ToProto = Callable[[QuoteRow, Price], billing_pb2.Quote]


async def create_quote(
    database: Database,
    clock: Clock,
    request: billing_pb2.CreateQuoteRequest,
    *,
    principal: str,
    project_uid: str,
    project: str,
    ask_catalog: Ask,
    to_proto: ToProto,
    valid_s: float,
) -> billing_pb2.Quote:
    """Make a quote that holds for `valid_s` seconds.

    The catalog is asked before the transaction, and not at all for a request that was answered before.

    Raises:
        Problem: the catalog's refusal, such as POLICY_REFUSED.
        OfferNotAvailable: not this way, not here.
        PriceNotFound: no price list has it.
        RequestIdReused: the id came before with another request.
    """
    before = await _answer_given(database, principal, request)
    if before is not None:
        return before
    offered = await ask_catalog()
    if offered.refusal is not None:
        raise offered.refusal
    now = clock.now()
    try:
        async with database.unit_of_work() as uow:
            price = current_price(
                await reads.prices(uow.session, offered.priced_resource), offered.priced_resource, offered.kind, now
            )
            row = _row(offered, price, project_uid=project_uid, project=project, now=now, valid_s=valid_s)
            uow.session.add(row)
            answer = to_proto(row, price)
            uow.emit(quote_created(project_uid, answer.name, row.uid, price.price_version, now))
            await remember_answer(uow, database, clock, principal, request, answer)
            return answer
    except IntegrityError:
        # The same request was answered by another process meanwhile: that answer stands.
        before = await _answer_given(database, principal, request)
        if before is None:
            raise
        return before


async def _answer_given(
    database: Database, principal: str, request: billing_pb2.CreateQuoteRequest
) -> billing_pb2.Quote | None:
    if not request.request_id:
        return None
    async with database.unit_of_work() as uow:
        return await answered_before(uow, database, principal, request, billing_pb2.Quote)


def _row(offered: Offered, price: Price, *, project_uid: str, project: str, now: datetime, valid_s: float) -> QuoteRow:
    if offered.kind is OfferKind.MANAGED:
        check_same_shape(price, offered.vcpus)
    return QuoteRow(
        uid=new_uid(),
        project_uid=project_uid,
        project=project,
        kind=int(offered.kind),
        model_version=offered.model_version,
        instance_type=offered.instance_type,
        vcpus=offered.vcpus,
        price_version=price.price_version,
        create_time=now,
        expire_time=now + timedelta(seconds=valid_s),
        supported_by=offered.supported_by,
        support_contact=offered.support_contact,
        sla=offered.sla,
    )
