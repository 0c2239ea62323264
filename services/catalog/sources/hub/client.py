"""How `huggingface_hub` talks to a hub here: every request has an end, and a hub that is busy is waited for, not pressed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import huggingface_hub
from huggingface_hub.utils._http import parse_ratelimit_headers

from services.catalog.domain.errors import HubUnavailable

_BUSY = {408, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class HubBounds:
    """How long a hub is asked before it is given up.

    Attributes:
        timeout_s: One connection, and one wait for bytes.
        attempts_max: Tries of one request.
        wait_s_first: Pause before the second try; it doubles with each one.
        wait_s_max: Longest pause, also where the hub itself asks for one.
    """

    timeout_s: float = 10.0
    attempts_max: int = 5
    wait_s_first: float = 0.5
    wait_s_max: float = 60.0

    def pause_s(self, failures: int) -> float:
        """How long to wait after that many failures in a row, 1 or more."""
        return float(min(self.wait_s_max, self.wait_s_first * 2 ** (failures - 1)))


class BoundedClient(httpx2.Client):
    """The session all of `huggingface_hub` shares.

    The library waits for ever where a caller sets no timeout, and sleeps as long as a hub asks it to. Here both end,
    with `HubUnavailable`, which the library does not catch and so does not try again.
    """

    def __init__(self, bounds: HubBounds, stopped: threading.Event) -> None:
        super().__init__(follow_redirects=True)
        self._bounds = bounds
        self._stopped = stopped

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        failures = 0
        while True:
            request.extensions = {**request.extensions, "timeout": httpx2.Timeout(self._bounds.timeout_s).as_dict()}
            try:
                response = super().send(request, **options)
            except httpx2.TransportError as error:
                why, asked_s = f"does not answer ({type(error).__name__})", None
            else:
                if response.status_code not in _BUSY:
                    return response
                why, asked_s = f"answers {response.status_code}", pause_asked_s(response.headers)
                response.close()
            failures += 1
            self._pause(request.url, why, failures, asked_s)

    def _pause(self, url: httpx2.URL, why: str, failures: int, asked_s: float | None) -> None:
        hub = f"the hub at {url.scheme}://{url.netloc.decode()}"
        check_pause(hub, why, failures, asked_s, self._bounds)
        if self._stopped.wait(self._bounds.pause_s(failures) if asked_s is None else asked_s):
            raise HubUnavailable(f"{hub} {why}, and this service is stopping; try again")


def check_pause(hub: str, why: str, failures: int, asked_s: float | None, bounds: HubBounds) -> None:
    """Whether it is worth trying once more.

    Raises:
        HubUnavailable: too many failures, or a longer pause asked for than is waited here.
    """
    if asked_s is not None and asked_s > bounds.wait_s_max:
        raise HubUnavailable(
            f"{hub} {why} and asks to wait {asked_s:g} s; at most {bounds.wait_s_max:g} s are waited: try again later",
            retry_after_s=asked_s,
        )
    if failures >= bounds.attempts_max:
        raise HubUnavailable(f"{hub} {why}, {failures} times in a row; try again later")


def pause_asked_s(headers: Mapping[str, str]) -> float | None:
    """How long a hub that is busy asks to be left alone, seconds; None where it does not say."""
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    asked = headers.get("retry-after", "")
    return float(asked) if asked.isdigit() else None


@contextmanager
def hub_session(bounds: HubBounds) -> Iterator[None]:
    """Let `huggingface_hub` work within these bounds for the length of the block; at its end what still waits is told."""
    stopped = threading.Event()
    huggingface_hub.set_client_factory(lambda: BoundedClient(bounds, stopped))
    try:
        yield
    finally:
        stopped.set()
        huggingface_hub.close_session()
