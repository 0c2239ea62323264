"""Quote one unit: a version's tokens, or a type's core-hour."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from modelyard.billing.v1 import billing_pb2
from sqlalchemy.exc import IntegrityError

from chassis.clock import Clock
from chassis.database import Database
from chassis.ids import new_uid
from chassis.rpc.idempotency import answered_before, remember_answer
from services.billing.domain.errors import ModelDeprecated, ModelRetired, OfferNotAvailable
from services.billing.domain.prices import OfferKind, Price, check_same_shape, current_price
from services.billing.events.published import quote_created
from services.billing.storage import reads
from services.billing.storage.tables import QuoteRow


@dataclass(frozen=True, slots=True)
class Offered:
    """What the catalog says of what is to be quoted."""

    # `publishers/*/models/*/versions/*` or `instanceTypes/*`, with `latest` resolved.
    resource: str
    kind: OfferKind
    vcpus: int
    # "", "DEPRECATED" or "RETIRED".
    stage: str
    # Why it cannot be deployed this way here; empty when it can.
    refusal: str

    @property
    def priced_resource(self) -> str:
        """What price lists name: the model, not its version."""
        return self.resource.partition("/versions/")[0]


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
        ModelRetired, ModelDeprecated: no new deployments.
        OfferNotAvailable: not this way, not here.
        PriceNotFound: no price list has it.
        RequestIdReused: the id came before with another request.
    """
    before = await _answer_given(database, principal, request)
    if before is not None:
        return before
    offered = await ask_catalog()
    _check_offered(offered)
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
    serverless = offered.kind is OfferKind.SERVERLESS
    if not serverless:
        check_same_shape(price, offered.vcpus)
    return QuoteRow(
        uid=new_uid(),
        project_uid=project_uid,
        project=project,
        kind=int(offered.kind),
        model_version=offered.resource if serverless else "",
        instance_type="" if serverless else offered.resource,
        vcpus=0 if serverless else offered.vcpus,
        price_version=price.price_version,
        create_time=now,
        expire_time=now + timedelta(seconds=valid_s),
    )


def _check_offered(offered: Offered) -> None:
    if offered.stage == "RETIRED":
        raise ModelRetired(f"{offered.resource} is retired; `modelyard models` shows those that take deployments")
    if offered.stage == "DEPRECATED":
        raise ModelDeprecated(
            f"{offered.resource} is deprecated and takes no new deployments; `modelyard models` shows those that do"
        )
    if offered.refusal:
        raise OfferNotAvailable(f"{offered.resource} cannot be deployed {offered.kind.name.lower()}: {offered.refusal}")
