"""Pulling from a durable consumer, with the next request under way while messages are handled."""

from __future__ import annotations

import asyncio
import contextlib
import json
from time import monotonic
from typing import TYPE_CHECKING

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from chassis.errors import Code, Problem
from chassis.ordered import NATS_ERRORS

if TYPE_CHECKING:
    from chassis.bus import Bus

# Ways the server ends a request that are no failure: nothing there, time is up, limits of one request.
_REQUEST_OVER = {"404", "408"}
_GRACE_S = 1.0


class PullFailed(Problem):
    """The durable consumer does not answer; safe to retry."""

    code = Code.UNAVAILABLE
    reason = "PULL_FAILED"


class PullSubscription:
    """Fetches batches from one durable consumer.

    The library's own `fetch` may hold a lone message back until its timeout; this one gives what there is.

    Args:
        wait_s: How long a fetch waits for a first message.
    """

    def __init__(self, bus: Bus, stream: str, durable: str, wait_s: float) -> None:
        self._bus = bus
        self._request_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._durable = durable
        self._wait_s = wait_s
        self._queue: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._open = contextlib.ExitStack()
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._wanted = 0  # messages of the running request that did not come yet
        self._request_ends_at = 0.0

    async def open(self) -> None:
        """Listen for messages; nothing is requested before the first fetch."""
        self._inbox = self._bus.client.new_inbox()
        self._subscription = await self._bus.client.subscribe(self._inbox, cb=self._queue.put)
        self._open.enter_context(self._bus.notified_when_back(lambda: self._queue.put_nowait(None)))

    async def fetch(self, batch_max: int) -> list[Msg]:
        """Up to `batch_max` messages, as soon as there is one; empty when none came in `wait_s`.

        Raises:
            PullFailed: the consumer is gone, or nobody answers.
        """
        messages: list[Msg] = []
        deadline = monotonic() + self._wait_s
        while not messages and monotonic() < deadline:
            await self._request(batch_max)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, deadline - monotonic())):
                    self._sort(await self._queue.get(), messages)
        while len(messages) < batch_max and not self._queue.empty():
            self._sort(self._queue.get_nowait(), messages)
        if messages:
            await self._request(batch_max)
        return messages

    async def _request(self, batch_max: int) -> None:
        """Ask for a batch unless one is under way or waits in the queue."""
        if not self._queue.empty() or (self._wanted > 0 and monotonic() < self._request_ends_at):
            return
        request = {"batch": batch_max, "expires": int(self._wait_s * 1e9)}
        try:
            await self._bus.client.publish(self._request_subject, json.dumps(request).encode(), reply=self._inbox)
        except NATS_ERRORS as error:
            raise PullFailed(f"{self._durable} cannot be asked: {error}") from error
        self._wanted = batch_max
        self._request_ends_at = monotonic() + self._wait_s + _GRACE_S

    def _sort(self, message: Msg | None, messages: list[Msg]) -> None:
        if message is None:  # a new connection knows nothing of the request
            self._wanted = 0
            return
        headers = message.headers or {}
        status = headers.get("Status") if not message.data else None
        if status is None:
            self._wanted -= 1
            messages.append(message)
            return
        self._wanted = 0
        if status not in _REQUEST_OVER and not messages:
            raise PullFailed(f"{self._durable} answers {status} {headers.get('Description', '')}".rstrip())

    async def close(self) -> None:
        """Take no more; what was fetched can still be acknowledged."""
        self._open.close()
        if self._subscription is not None:
            with contextlib.suppress(*NATS_ERRORS):
                await self._subscription.unsubscribe()
