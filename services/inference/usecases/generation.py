"""A streamed answer: read from an instance or a provider, handed on, settled exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

from modelyard.deploy.v1 import routes_pb2

from chassis.errors import Problem
from chassis.telemetry import span
from services.inference.access.routes import Destination
from services.inference.domain.errors import ContentFiltered, EngineTimeout
from services.inference.domain.output import Piece
from services.inference.domain.usage import Counts, Outcome, billed, cut_by_us
from services.inference.usecases.measures import CallMeasure

if TYPE_CHECKING:
    from services.inference.usecases.calls import Calls

# Streams the pieces of one admitted call, whose id is known by then.
Read = Callable[["Generation"], AsyncGenerator[Piece, None]]


class Generation:
    """A streamed answer. Iterate `pieces`; leaving early cancels the work and settles the call.

    `id` is the usage record's, known from the first piece on. `usage` is what the record says, complete when the pieces
    have ended.
    """

    def __init__(self, calls: Calls, key: routes_pb2.KeyAccess, destination: Destination, read: Read) -> None:
        self._calls = calls
        self._key = key
        self._destination = destination
        self._read = read
        # The instance that took the call; empty where a provider did.
        self.instance_uid = ""
        self.finish_reason = ""
        # What was consumed by now, as far as it is known; and what the call is billed, once it has ended.
        self.received = Counts()
        self.usage = Counts()
        self.id = ""
        # Seconds since 1970, UTC.
        self.created = 0

    async def pieces(self, *, leave_at_once: bool = True) -> AsyncGenerator[str, None]:
        """Text as it is produced. When it ends, the call's usage is durable.

        The journal entry is durable before the first piece leaves; that wait overlaps the engine's work.

        Args:
            leave_at_once: Whether each piece is handed to the client as it comes. An answer that leaves as a whole is
                not delivered before its end: a failure of ours on the way makes it free.

        Raises:
            Problem: what went wrong; the call is settled.
        """
        measure = CallMeasure("chat", self._destination.deployment)
        with span("chat", measure.attributes):
            async with aclosing(self._pieces(measure, leave_at_once=leave_at_once)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _pieces(self, measure: CallMeasure, *, leave_at_once: bool) -> AsyncGenerator[str, None]:
        delivered = Counts()
        outcome: Outcome | None = None
        # Opened here, not earlier: what is opened is settled below, and an iterator that never ran settles nothing.
        entry = self._calls.open_with(self._key, self._destination)
        self.id, self.created = entry.record.id, entry.record.occur_time.ToSeconds()
        limit = asyncio.timeout(self._calls.limits.call_s_max)
        try:
            async with limit, aclosing(self._read(self)) as pieces:
                async for piece in pieces:
                    self.received = Counts(
                        piece.input_tokens or self.received.input_tokens,
                        self.received.output_tokens + piece.output_tokens,
                    )
                    self.finish_reason = piece.finish_reason or self.finish_reason
                    measure.output()
                    await entry.opened
                    if piece.text:
                        yield piece.text
                    if not leave_at_once:
                        continue
                    delivered = self.received
                    # Until output has left, a crash of ours makes the call free: so nothing stands in the journal.
                    if delivered.has_output:
                        entry.progress(delivered)
            outcome = Outcome.COMPLETED
        except TimeoutError:
            outcome = Outcome.TIMED_OUT
            raise EngineTimeout(
                f"the call took longer than {self._calls.limits.call_s_max:g} s; what was produced is billed, ask for less"
            ) from None
        except EngineTimeout:
            outcome = Outcome.TIMED_OUT if delivered.has_output else Outcome.FAILED
            raise
        except ContentFiltered as filtered:
            # What was read before it was refused is paid for, as far as the provider says it.
            self.received = filtered.read
            outcome = Outcome.COMPLETED if self.received.input_tokens else Outcome.FAILED
            raise
        except Problem:
            outcome = cut_by_us(delivered)
            raise
        finally:
            # No await stands between the end of the call and its settlement: a cancelled task settles too.
            is_heard = outcome is not None
            outcome = outcome or self._calls.outcome_of_cut(limit, delivered)
            self.usage = billed(outcome, self.received, delivered)
            durable = entry.settle(outcome, self.usage)
            measure.settled(outcome, self.usage, self.id)
            # The last bytes wait for the record; a failed call is recovered at zero anyway, and nobody hears a cut one.
            if is_heard and outcome is not Outcome.FAILED:
                await durable
