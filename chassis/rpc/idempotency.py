"""Writes that may be repeated: the same request id gets the first one's answer."""

from __future__ import annotations

import hashlib
from typing import TypeVar

from google.protobuf.message import Message
from sqlalchemy import insert, select

from chassis.clock import Clock
from chassis.database import Database, UnitOfWork
from chassis.errors import InvalidArgument, RequestIdReused

Answer = TypeVar("Answer", bound=Message)

REQUEST_ID_LENGTH_MAX = 64


async def answered_before(
    uow: UnitOfWork, database: Database, principal: str, request: Message, answer_type: type[Answer]
) -> Answer | None:
    """The stored answer to this request id, or None when it is new or empty.

    Raises:
        RequestIdReused: the id came before with another request.
        InvalidArgument: longer than 64 characters, or none that can be shown.
    """
    wanted: str = getattr(request, "request_id")  # noqa: B009 - a field of many message types, of none in particular
    if not wanted:
        return None
    if len(wanted) > REQUEST_ID_LENGTH_MAX:
        raise InvalidArgument(
            f"request_id has {len(wanted)} characters; at most {REQUEST_ID_LENGTH_MAX} are allowed",
            field="request_id",
        )
    if not wanted.isprintable():
        raise InvalidArgument("request_id holds a control character; send letters, digits, dashes", field="request_id")
    table = database.tables.request
    known = select(table.c.digest, table.c.response).where(
        table.c.principal == principal, table.c.method == _method(request), table.c.request_id == wanted
    )
    row = (await uow.session.execute(known)).one_or_none()
    if row is None:
        return None
    if row.digest != _digest(request):
        raise RequestIdReused(
            f"request_id {wanted!r} was used with another request; use a new one for a new request",
            field="request_id",
        )
    return answer_type.FromString(row.response)


async def remember_answer(
    uow: UnitOfWork, database: Database, clock: Clock, principal: str, request: Message, answer: Message
) -> None:
    """Keep the answer in the same transaction as the effect; without a request id nothing is kept."""
    wanted: str = getattr(request, "request_id")  # noqa: B009 - a field of many message types, of none in particular
    if not wanted:
        return
    await uow.session.execute(
        insert(database.tables.request).values(
            principal=principal,
            method=_method(request),
            request_id=wanted,
            digest=_digest(request),
            response=answer.SerializeToString(deterministic=True),
            answer_time=clock.now(),
        )
    )


def _method(request: Message) -> str:
    return request.DESCRIPTOR.full_name


def _digest(request: Message) -> str:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
