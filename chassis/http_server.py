"""An HTTP server inside a service: TLS like every listener, answers that wait for their client, a graceful stop; and what
surrounds every request."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import uvicorn
from opentelemetry.trace import SpanKind
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from chassis.answer_headers import begin_answer
from chassis.database import problem_from_database
from chassis.errors import InternalProblem, Problem
from chassis.ids import new_uid
from chassis.rpc.server import check_listener, tls_from_settings
from chassis.settings import ServiceSettings
from chassis.telemetry import get_logger, request_id, span
from chassis.telemetry.metrics import DURATION_BUCKETS_S, Histogram

log = get_logger(__name__)

_REQUEST_DURATION = Histogram(
    "http.server.request.duration",
    unit="s",
    description="From a request's arrival to the end of its answer.",
    attributes=("http.request.method", "http.route", "http.response.status_code"),
    buckets=DURATION_BUCKETS_S,
)
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class HttpServer:
    """Serves an app at one address; it takes connections from its making on, and answers them while it serves.

    Args:
        address: `host:port`; port 0 takes a free one, see `url`.
        settings: The service's: TLS, `insecure`, and how long a stop may take.
        connections_max: Connections at once; further ones get 503.
    """

    def __init__(self, app: ASGIApp, address: str, settings: ServiceSettings, *, connections_max: int) -> None:
        tls = tls_from_settings(settings)
        check_listener(address, has_tls=tls is not None, insecure=settings.insecure)
        self._listener = _listen(address)
        self._scheme = "https" if tls else "http"
        config = uvicorn.Config(
            app,
            http=_Protocol,
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=connections_max,
            timeout_graceful_shutdown=max(1, int(settings.stop_s_max / 2)),
            ssl_certfile=str(tls.certificate_file) if tls else None,
            ssl_keyfile=str(tls.key_file) if tls else None,
        )
        self._server = _Server(config)

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self._listener.getsockname()[:2]
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    async def serve(self) -> None:
        """Answer until `stop`."""
        await self._server.serve([self._listener])

    def stop(self, *, at_once: bool = False) -> None:
        """Take nothing new; `serve` returns when running requests have ended, or have had their time."""
        self._server.should_exit = True
        self._server.force_exit = at_once


class Outermost:
    """Around every request of an app: its id, its span and measure, what is said beside its answer, and an answer in one
    shape whatever happens.

    Args:
        route_of: A path as it is measured; one of few.
        refusal: A problem as the app answers it.
    """

    def __init__(self, app: ASGIApp, *, route_of: Callable[[str], str], refusal: Callable[[Problem], ASGIApp]) -> None:
        self._app = app
        self._route_of = route_of
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id.set(given if _REQUEST_ID.fullmatch(given) else new_uid())
        started, status = False, 499
        route = self._route_of(scope["path"])
        named = {"http.request.method": scope["method"], "http.route": route}
        parent = headers.get(b"traceparent", b"").decode("latin-1")
        began_s, beside = time.monotonic(), begin_answer()

        async def send_once(message: Any) -> None:
            nonlocal started, status
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                more = [(name.encode(), value.encode()) for name, value in beside.items()]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        try:
            with span(f"{scope['method']} {route}", named, kind=SpanKind.SERVER, parent=parent):
                await self._app(scope, receive, send_once)
        except ClientDisconnect:
            # It left while it sent its body; nothing was admitted and nobody hears an answer.
            log.info("the client left before its request was whole")
        except Exception as error:  # noqa: BLE001 - the last place that can give it an answer
            problem = _problem(error, scope["path"])
            # Once an answer has begun, only a connection that breaks says that this is not all.
            if not started:
                await self._refusal(problem)(scope, receive, send_once)
        finally:
            # 499, as others say it: the client left before an answer began.
            _REQUEST_DURATION.record(time.monotonic() - began_s, *named.values(), status)


def _problem(error: Exception, path: str) -> Problem:
    if isinstance(error, Problem):
        log.info("refused", path=path, reason=error.reason, error=error.message)
        return error
    log.exception("request failed", path=path)
    return problem_from_database(error) or InternalProblem(
        f"something broke on our side; the log has it under request id {request_id.get()}"
    )


async def until_disconnect(receive: Receive, work: Awaitable[None]) -> None:
    """Do the work, or cancel it when the client leaves first; either way it has ended when this returns."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
        await asyncio.wait({working})
        if not working.cancelled() and (error := working.exception()) is not None:
            raise error
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})


async def _disconnected(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return


class _Protocol(HttpToolsProtocol):
    """A response waits for its client from the first byte on that the socket does not take."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)


class _Server(uvicorn.Server):
    """Signals are the service's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host.strip("[]"), int(port)))
    listener.listen(2048)
    listener.set_inheritable(True)
    return listener
