"""Responses: OpenAI's error shape, server-sent events with back-pressure, and work that ends with its client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chassis.errors import Problem, http_status
from chassis.http_server import until_disconnect
from chassis.telemetry import get_logger, request_id

log = get_logger(__name__)

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


class JsonResponse(Response):
    """JSON by msgspec."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


def error_body(problem: Problem) -> dict[str, Any]:
    """A problem in OpenAI's shape."""
    kind = _TYPES.get(http_status(problem), "server_error" if http_status(problem) >= 500 else "invalid_request_error")
    return {"error": {"message": problem.message, "type": kind, "code": problem.reason.lower(), "param": problem.field}}


def error_response(problem: Problem) -> JsonResponse:
    """A problem as a response."""
    headers = {"x-ms-error-code": problem.reason, "x-request-id": request_id.get()}
    if problem.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(problem.retry_after_s)))
    if http_status(problem) == 401:
        headers["www-authenticate"] = "Bearer"
    log.info("refused", status=http_status(problem), reason=problem.reason)
    return JsonResponse(error_body(problem), status_code=http_status(problem), headers=headers)


class EventStream(Response):
    """Server-sent events. Headers go out with the first event, so that an early failure has its own status.

    `send` waits while the client reads slowly, and with it the engine's stream: an event counts as delivered when it has
    left the process. When the client leaves, the events' iterator is closed, which cancels the work.
    """

    def __init__(self, events: AsyncGenerator[bytes, None], headers: Callable[[], dict[str, str]]) -> None:
        self._events = events
        self._make_headers = headers
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_disconnect(receive, self._stream(scope, receive, send))

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        try:
            async for event in self._events:
                if not started:
                    started = True
                    await send(self._start())
                await send({"type": "http.response.body", "body": event, "more_body": True})
                # Nothing is sent for it, but it waits until what was written before has gone out.
                await send({"type": "http.response.body", "body": b"", "more_body": True})
        except Problem as problem:
            if not started:
                await error_response(problem)(scope, receive, send)
                return
            # The status is out; the stream says how it ended, and does not end as if all were well.
            await send(
                {
                    "type": "http.response.body",
                    "body": b"data: " + msgspec.json.encode(error_body(problem)) + b"\n\n",
                    "more_body": True,
                }
            )
        finally:
            await self._events.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _start(self) -> dict[str, Any]:
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-store",
            "x-accel-buffering": "no",
            "x-request-id": request_id.get(),
            **self._make_headers(),
        }
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        return {"type": "http.response.start", "status": 200, "headers": raw}
