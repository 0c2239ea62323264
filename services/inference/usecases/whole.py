"""A call whose answer leaves as a whole: admitted, journaled, settled once, however its work ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from modelyard.deploy.v1 import routes_pb2

from chassis.errors import Problem
from chassis.telemetry import span
from services.inference.access.routes import Destination
from services.inference.domain.errors import ContentFiltered, EngineTimeout
from services.inference.domain.usage import Counts, Outcome, billed
from services.inference.usecases.instances import ask_one, stream_from_one
from services.inference.usecases.measures import CallMeasure

if TYPE_CHECKING:
    from services.inference.usecases.calls import Calls

Answer = TypeVar("Answer")


class WholeCall:
    """One such call.

    `read` is what engines have told so far; the work adds to it. A call that fails is free, one that its client leaves
    pays for what was read. `id` is the usage record's, known while the work runs.
    """

    def __init__(self, calls: Calls, key: routes_pb2.KeyAccess, destination: Destination, operation: str) -> None:
        self._calls = calls
        self._key = key
        self._operation = operation
        self.destination = destination
        self.id = ""
        self.instance_uid = ""
        self.read = Counts()

    async def ask(self, ask: Callable[[routes_pb2.RouteTarget], Awaitable[Answer]]) -> Answer:
        """The answer of the instance that takes it."""

        async def noted(target: routes_pb2.RouteTarget) -> Answer:
            answer = await ask(target)
            self.instance_uid = target.instance_uid
            return answer

        return await ask_one(self._calls.backend, self.destination, noted)

    def stream(
        self, ask: Callable[[routes_pb2.RouteTarget], AsyncGenerator[Answer, None]]
    ) -> AsyncGenerator[Answer, None]:
        """What the instance that takes it streams."""

        def noted(target: routes_pb2.RouteTarget) -> AsyncGenerator[Answer, None]:
            self.instance_uid = target.instance_uid
            return ask(target)

        return stream_from_one(self._calls.backend, self.destination, noted)

    async def run(self, work: Callable[[], Awaitable[Answer]], *, ask_for_less: str) -> Answer:
        """Do the work; the record is durable when this returns.

        Args:
            ask_for_less: What a caller does whose call takes too long, such as "send fewer texts".

        Raises:
            Problem: refused, or failed and recorded at zero.
        """
        measure = CallMeasure(self._operation, self.destination.deployment)
        with span(self._operation, measure.attributes):
            return await self._settled(work, measure, ask_for_less)

    async def _settled(self, work: Callable[[], Awaitable[Answer]], measure: CallMeasure, ask_for_less: str) -> Answer:
        outcome: Outcome | None = None
        entry = self._calls.open_with(self._key, self.destination)
        self.id = entry.record.id
        limit_s = self._calls.limits.call_s_max
        limit = asyncio.timeout(limit_s)
        try:
            async with limit:
                answer = await work()
                await entry.opened
            outcome = Outcome.COMPLETED
        except TimeoutError:
            outcome = Outcome.TIMED_OUT if self.read.has_read else Outcome.FAILED
            raise EngineTimeout(f"the call took longer than {limit_s:g} s; {ask_for_less}") from None
        except EngineTimeout:
            outcome = Outcome.TIMED_OUT if self.read.has_read else Outcome.FAILED
            raise
        except ContentFiltered as filtered:
            self.read = filtered.read
            outcome = Outcome.COMPLETED if self.read.has_read else Outcome.FAILED
            raise
        except Problem:
            outcome = Outcome.FAILED
            raise
        finally:
            # No await stands between the end of the call and its settlement: a cancelled task settles too.
            outcome = outcome or self._calls.outcome_of_cut(limit, Counts())
            usage = billed(outcome, self.read, Counts())
            durable = entry.settle(outcome, usage)
            measure.settled(outcome, usage, self.id)
        await durable
        return answer
