"""Waking those who wait for a change."""

from __future__ import annotations

import asyncio


class Changes:
    """Wakes whoever waits for a change: the loop when something else is wanted, watchers when something is observed.

    Read `count` before looking at the rows, and wait `after` it: a change that comes while one looks is not missed.
    """

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def signal(self) -> None:
        """Wake everyone who waits now."""
        self.count += 1
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout_s: float, *, after: int) -> None:
        """Wait for the first signal after `count` was `after`, or that long."""
        if self.count != after:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return
