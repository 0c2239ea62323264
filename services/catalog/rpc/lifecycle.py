"""LifecycleService."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from modelyard.catalog.v1 import lifecycle_pb2, lifecycle_pb2_grpc

from chassis.access import current_caller
from chassis.clock import Clock
from chassis.database import Database
from chassis.errors import InvalidArgument
from chassis.paging import page_size, page_token_decode, page_token_encode, split_page
from chassis.timestamps import timestamp
from services.catalog.domain.lifecycle import midnight
from services.catalog.domain.names import VERSION
from services.catalog.storage.convert import override_to_proto
from services.catalog.storage.queries.lifecycle import changes_ahead_page, overrides_page
from services.catalog.usecases.notice import create_override

Context = Any
DAYS_DEFAULT, DAYS_MAX = 90, 3660


class LifecycleServicer(lifecycle_pb2_grpc.LifecycleServiceServicer):
    """What is ahead of versions, and overrides of promised notice."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def ListUpcomingChanges(
        self, request: lifecycle_pb2.ListUpcomingChangesRequest, context: Context
    ) -> lifecycle_pb2.ListUpcomingChangesResponse:
        if not 0 <= request.days <= DAYS_MAX:
            raise InvalidArgument(f"days {request.days}; 1 to {DAYS_MAX} are allowed", field="days")
        scope = f"ListUpcomingChanges/{request.days}"
        after = page_token_decode(request.page_token, scope, ("", "", 0))
        limit = page_size(request.page_size)
        today = self._clock.now().date()
        last = today + timedelta(days=request.days or DAYS_DEFAULT)
        async with self._database.reader() as session:
            found = await changes_ahead_page(session, today, last, after, limit + 1)
        page, more = split_page(found, limit)
        return lifecycle_pb2.ListUpcomingChangesResponse(
            upcoming_changes=[
                lifecycle_pb2.UpcomingChange(
                    name=f"{ahead.model_version}/changes/{ahead.change.word}",
                    model_version=ahead.model_version,
                    change=lifecycle_pb2.VersionChange.ValueType(ahead.change),
                    change_time=timestamp(midnight(ahead.day)),
                    days_left=(ahead.day - today).days,
                    replacement=ahead.replacement,
                )
                for ahead in page
            ],
            next_page_token=page_token_encode(
                scope, [page[-1].day.isoformat(), page[-1].model_version, int(page[-1].change)]
            )
            if more
            else "",
        )

    async def CreateNoticeOverride(
        self, request: lifecycle_pb2.CreateNoticeOverrideRequest, context: Context
    ) -> lifecycle_pb2.NoticeOverride:
        VERSION.parse(request.model_version, "model_version")
        return await create_override(self._database, self._clock, current_caller().principal, request)

    async def ListNoticeOverrides(
        self, request: lifecycle_pb2.ListNoticeOverridesRequest, context: Context
    ) -> lifecycle_pb2.ListNoticeOverridesResponse:
        scope = "ListNoticeOverrides"
        (before,) = page_token_decode(request.page_token, scope, ("",))
        limit = page_size(request.page_size)
        async with self._database.reader() as session:
            found = await overrides_page(session, before, limit + 1)
        rows, more = split_page(found, limit)
        return lifecycle_pb2.ListNoticeOverridesResponse(
            notice_overrides=[override_to_proto(row) for row in rows],
            next_page_token=page_token_encode(scope, [rows[-1].uid]) if more else "",
        )
