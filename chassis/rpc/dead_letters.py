"""Dead letters over gRPC, alike in every service that consumes events."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from modelyard.events.v1 import dead_letters_pb2, dead_letters_pb2_grpc
from sqlalchemy import and_, func, or_, select

from chassis.clock import Clock, time_from_us, us_from_time
from chassis.database import Database
from chassis.dead_letters import Handlers, replay_dead_letters
from chassis.errors import InvalidArgument
from chassis.paging import page_size, page_token_decode, page_token_encode, split_page
from chassis.rpc.server import ServedService
from chassis.timestamps import timestamp

SERVICE = "modelyard.events.v1.DeadLetterService"
IDS_MAX = 100
_LATEST_US = us_from_time(datetime(9999, 12, 31, tzinfo=UTC))
Context = Any


class DeadLetterServicer(dead_letters_pb2_grpc.DeadLetterServiceServicer):
    """Lists and replays the dead letters in this service's database."""

    def __init__(self, database: Database, clock: Clock, handlers: Handlers) -> None:
        self._database = database
        self._clock = clock
        self._handlers = handlers

    def served(self) -> ServedService:
        """For the service's RPC server."""
        return ServedService(SERVICE, dead_letters_pb2_grpc, self)

    async def ListDeadLetters(
        self, request: dead_letters_pb2.ListDeadLettersRequest, context: Context
    ) -> dead_letters_pb2.ListDeadLettersResponse:
        dead = self._database.tables.dead_letter
        scope = f"ListDeadLetters/{request.show_replayed}"
        after_us, after_id = page_token_decode(request.page_token, scope, (0, ""))
        after = time_from_us(min(after_us, _LATEST_US))
        limit = page_size(request.page_size)
        columns = [column for column in dead.c if column.name not in ("data", "headers")]
        query = (
            select(*columns, func.length(dead.c.data).label("size_bytes"))
            .where(or_(dead.c.receive_time > after, and_(dead.c.receive_time == after, dead.c.id > after_id)))
            .order_by(dead.c.receive_time, dead.c.id)
            .limit(limit + 1)
        )
        if not request.show_replayed:
            query = query.where(dead.c.replay_time.is_(None))
        async with self._database.reader() as session:
            rows, more = split_page((await session.execute(query)).all(), limit)
        last = [us_from_time(rows[-1].receive_time), rows[-1].id] if more else []
        return dead_letters_pb2.ListDeadLettersResponse(
            dead_letters=[_to_proto(row) for row in rows],
            next_page_token=page_token_encode(scope, last) if more else "",
        )

    async def ReplayDeadLetters(
        self, request: dead_letters_pb2.ReplayDeadLettersRequest, context: Context
    ) -> dead_letters_pb2.ReplayDeadLettersResponse:
        if not 1 <= len(request.ids) <= IDS_MAX:
            raise InvalidArgument(f"{len(request.ids)} ids were given; 1 to {IDS_MAX} are allowed", field="ids")
        replay = await replay_dead_letters(self._database, self._clock, self._handlers, request.ids)
        return dead_letters_pb2.ReplayDeadLettersResponse(
            replayed_ids=replay.replayed,
            failures=[
                dead_letters_pb2.ReplayFailure(id=letter_id, why=why) for letter_id, why in replay.still_dead.items()
            ],
        )


def _to_proto(row: Any) -> dead_letters_pb2.DeadLetter:
    return dead_letters_pb2.DeadLetter(
        id=row.id,
        consumer=row.consumer,
        subject=row.subject,
        why=row.why,
        size_bytes=row.size_bytes,
        receive_time=timestamp(row.receive_time),
        replay_time=None if row.replay_time is None else timestamp(row.replay_time),
    )
