"""The keeper's canary inside an engine: known by its id, and never left waiting by an engine that is only busy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# It is no use of the model: token logs leave it out.
CANARY_PREFIX = "modelyard-canary"
_LOOK_S = 0.5


class Pulse:
    """Whether the calls inside an engine get on; safe to use from several threads."""

    def __init__(self) -> None:
        self._running = 0
        self._beats = 0
        self._changed = threading.Condition()

    def beat(self) -> None:
        """Some call has got on: a token, a batch of prompt, a piece of audio."""
        with self._changed:
            self._beats += 1
            self._changed.notify_all()

    @contextmanager
    def running(self) -> Iterator[None]:
        """A call is inside the engine."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def feel(self, gone: Callable[[], bool]) -> bool:
        """Wait until a call gets on, or none runs any more.

        Args:
            gone: Ends the waiting too: nobody hears the answer.

        Returns:
            Whether a call got on. Calls that hang are waited for without end.
        """
        with self._changed:
            beats = self._beats
            while self._running and self._beats == beats and not gone():
                self._changed.wait(_LOOK_S)
            return self._beats != beats

    def _count(self, change: int) -> None:
        with self._changed:
            self._running += change
            self._changed.notify_all()
