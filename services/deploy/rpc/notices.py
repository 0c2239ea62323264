"""NoticeService."""

from __future__ import annotations

from typing import Any

from modelyard.deploy.v1 import notices_pb2, notices_pb2_grpc

from chassis.access import current_caller
from chassis.database import Database
from chassis.paging import page_size, page_token_decode, page_token_encode, split_page
from services.deploy.storage import queries
from services.deploy.storage.convert import notice_to_proto

Context = Any


class NoticeServicer(notices_pb2_grpc.NoticeServiceServicer):
    """What projects were told."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ListNotices(
        self, request: notices_pb2.ListNoticesRequest, context: Context
    ) -> notices_pb2.ListNoticesResponse:
        caller = current_caller()
        scope = f"ListNotices/{caller.project_uid}"
        (before,) = page_token_decode(request.page_token, scope, ("",))
        limit = page_size(request.page_size)
        async with self._database.reader() as session:
            found = await queries.notices_page(session, caller.project_uid, before, limit + 1)
        rows, more = split_page(found, limit)
        return notices_pb2.ListNoticesResponse(
            notices=[notice_to_proto(row, caller.project) for row in rows],
            next_page_token=page_token_encode(scope, [rows[-1].uid]) if more else "",
        )
