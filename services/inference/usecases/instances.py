"""A call goes to one instance of its destination; to another one where the first did not take it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import TypeVar

from modelyard.deploy.v1 import routes_pb2

from services.inference.access.routes import Destination, unreached
from services.inference.backends.triton import TritonBackend
from services.inference.backends.words import NothingRead
from services.inference.domain.errors import EngineBusy

Answer = TypeVar("Answer")

ATTEMPTS = 2


async def ask_one(
    backend: TritonBackend, destination: Destination, ask: Callable[[routes_pb2.RouteTarget], Awaitable[Answer]]
) -> Answer:
    """The answer of the instance that took the call.

    Raises:
        NoReadyInstance: none was reached.
        EngineBusy: those that were asked are full.
        Problem: what the instance that took it said.
    """
    for target, is_last in _attempts(backend, destination):
        with backend.in_flight(target):
            try:
                return await ask(target)
            except (NothingRead, EngineBusy) as not_taken:
                _go_on(destination, not_taken, is_last=is_last)
    raise unreached(destination)


async def stream_from_one(
    backend: TritonBackend,
    destination: Destination,
    ask: Callable[[routes_pb2.RouteTarget], AsyncGenerator[Answer, None]],
) -> AsyncGenerator[Answer, None]:
    """What the instance that took the call streams. Closing it closes that stream.

    Raises:
        As `ask_one`.
    """
    for target, is_last in _attempts(backend, destination):
        with backend.in_flight(target):
            has_begun = False
            try:
                async with aclosing(ask(target)) as answers:
                    async for answer in answers:
                        has_begun = True
                        yield answer
                return
            except (NothingRead, EngineBusy) as not_taken:
                _go_on(destination, not_taken, is_last=is_last or has_begun)
    raise unreached(destination)


def _attempts(backend: TritonBackend, destination: Destination) -> Iterator[tuple[routes_pb2.RouteTarget, bool]]:
    avoid = ""
    for attempt in range(1, ATTEMPTS + 1):
        target = backend.choose(destination.deployment.targets, avoid)
        avoid = target.instance_uid
        yield target, attempt == ATTEMPTS


def _go_on(destination: Destination, not_taken: NothingRead | EngineBusy, *, is_last: bool) -> None:
    """Return where another attempt makes sense: one instance that is full is still full a moment later."""
    if isinstance(not_taken, EngineBusy):
        if is_last or len(destination.deployment.targets) == 1:
            raise not_taken
    elif is_last:
        raise unreached(destination) from None
