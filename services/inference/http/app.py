"""The OpenAI API, health, and the page."""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec
from modelyard.catalog.v1 import catalog_pb2
from modelyard.deploy.v1 import routes_pb2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis.errors import InvalidArgument, NotFound, Problem
from chassis.http_server import Outermost, until_disconnect
from chassis.telemetry import get_logger, request_id
from services.inference.access.dates import tell_dates
from services.inference.access.keys import KeyDirectory
from services.inference.domain.errors import BodyTooLarge, ModelNotCallable
from services.inference.domain.media import IMAGES_MAX
from services.inference.domain.usage import Counts
from services.inference.http.answers import EventStream, JsonResponse, error_response
from services.inference.http.bodies import messages_of, read_chat, read_embeddings
from services.inference.http.media import (
    classification_response,
    read_classification_form,
    read_classification_json,
    read_form,
    read_transcription,
    transcription_response,
)
from services.inference.http.model_page import ModelPage
from services.inference.http.page import Page
from services.inference.usecases.calls import Calls
from services.inference.usecases.generation import Generation
from services.inference.usecases.media import classify_images, transcribe

log = get_logger(__name__)

_ROUTES = frozenset(
    {
        "/",
        "/healthz",
        "/page/project",
        "/v1/models",
        "/v1/chat/completions",
        "/v1/embeddings",
        "/v1/audio/transcriptions",
        "/v1/images/classifications",
    }
)
_FINISH = {"stop": "stop", "length": "length", "content_filter": "content_filter"}
_CAPABILITIES = {"chat_completion": catalog_pb2.TASK_CHAT_COMPLETION, "embeddings": catalog_pb2.TASK_EMBEDDINGS}
# How many times the largest body is read before a larger one is refused without reading on.
_DROPPED_BODIES_MAX = 4
INSTANCE_HEADER = "x-modelyard-instance"


def create_app(
    keys: KeyDirectory,
    calls: Calls,
    page: Page,
    model_page: ModelPage,
    *,
    body_bytes_max: int,
    media_bytes_max: int,
) -> ASGIApp:
    """The REST face of inference.

    Args:
        body_bytes_max: Largest body of text.
        media_bytes_max: Largest body with audio or images.
    """
    api = _Api(keys, calls, page, model_page, body_bytes_max, media_bytes_max)
    app = Starlette(
        routes=[
            Route("/", api.page),
            Route("/healthz", api.health),
            Route("/page/project", api.project_facts),
            Route("/models/{publisher}/{model}", api.model_page),
            Route("/v1/models", api.list_models),
            Route("/v1/models/{model:path}", api.get_model),
            Route("/v1/chat/completions", api.chat, methods=["POST"]),
            Route("/v1/embeddings", api.embeddings, methods=["POST"]),
            Route("/v1/audio/transcriptions", api.transcriptions, methods=["POST"]),
            Route("/v1/images/classifications", api.classifications, methods=["POST"]),
        ],
        # Without a handler here Starlette answers a problem with a bare 500 of its own.
        exception_handlers={Problem: _refuse, HTTPException: _refuse_route},
    )
    return Outermost(app, route_of=_route_of, refusal=error_response)


async def _refuse(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)  # noqa: S101 - registered for no other class
    return error_response(problem)


async def _refuse_route(request: Request, error: Exception) -> Response:
    """A path or a method that is not served."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for no other class
    wanted = f"{request.method[:16]} {request.url.path[:80]}"
    problem: Problem = NotFound(f"{wanted} is not served here; GET /v1/models is a beginning")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        problem = InvalidArgument(f"{wanted} is not served here; {allowed} is")
        problem.http = 405
    response = error_response(problem)
    response.headers.update(error.headers or {})
    return response


def _route_of(path: str) -> str:
    return path if path in _ROUTES else "other"


class _Api:
    def __init__(
        self,
        keys: KeyDirectory,
        calls: Calls,
        page: Page,
        model_page: ModelPage,
        body_bytes_max: int,
        media_bytes_max: int,
    ) -> None:
        self._keys = keys
        self._calls = calls
        self._page = page
        self._model_page = model_page
        self._body_bytes_max = body_bytes_max
        self._media_bytes_max = media_bytes_max

    async def health(self, request: Request) -> Response:
        refusing = self._calls.journal.refusing
        return JsonResponse({"status": "refusing" if refusing else "ok", "why": refusing}, 503 if refusing else 200)

    async def page(self, request: Request) -> Response:
        return await self._page.html(str(request.base_url))

    async def model_page(self, request: Request) -> Response:
        publisher, model = request.path_params["publisher"], request.path_params["model"]
        return await self._model_page.html(f"publishers/{publisher}/models/{model}", str(request.base_url))

    async def project_facts(self, request: Request) -> Response:
        return await self._page.project(await self._key(request))

    async def list_models(self, request: Request) -> Response:
        key = await self._key(request)
        found = [_model(name, destination) for name, destination in self._calls.routes.callable_with(key)]
        return JsonResponse({"object": "list", "data": found}, headers=_headers())

    async def get_model(self, request: Request) -> Response:
        key, wanted = await self._key(request), request.path_params["model"]
        for name, destination in self._calls.routes.callable_with(key):
            if name == wanted:
                tell_dates(destination.deployment)
                return JsonResponse(_model(name, destination), headers=_headers())
        raise ModelNotCallable(
            f"model {wanted[:80]!r} is not callable with this key; GET /v1/models lists what is", field="model"
        )

    async def chat(self, request: Request) -> Response:
        key = await self._key(request)
        body = read_chat(await self._body(request))
        generation = await self._calls.chat(key, body.model, messages_of(body), body.sampling())
        if body.stream:
            events = _chat_events(generation, body.model, with_running_usage=body.wants_running_usage)
            return EventStream(events, lambda: _instance(generation.instance_uid))
        return _Work(lambda: _whole_chat(generation, body.model))

    async def embeddings(self, request: Request) -> Response:
        key = await self._key(request)
        body = read_embeddings(await self._body(request))
        texts = body.texts()

        async def answer() -> Response:
            embedded = await self._calls.embed(key, body.model, texts, dimensions=body.dimensions)
            as_float = body.encoding_format == "float"
            data = [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": list(struct.unpack(f"<{len(row) // 4}f", row))
                    if as_float
                    else base64.b64encode(row).decode(),
                }
                for index, row in enumerate(embedded.rows)
            ]
            usage = {"prompt_tokens": embedded.input_tokens, "total_tokens": embedded.input_tokens}
            return JsonResponse(
                {"object": "list", "data": data, "model": body.model, "usage": usage},
                headers=_answered(embedded.id, embedded.instance_uid),
            )

        return _Work(answer)

    async def transcriptions(self, request: Request) -> Response:
        key = await self._key(request)
        form = await read_form(request.headers, self._chunks(request, self._media_bytes_max), files_max=1)
        body = read_transcription(form)

        async def answer() -> Response:
            transcribed = await transcribe(self._calls, key, body.model, body.audio, body.listening)
            headers = _answered(transcribed.id, transcribed.instance_uid)
            return transcription_response(transcribed, body.response_format, headers)

        return _Work(answer)

    async def classifications(self, request: Request) -> Response:
        key = await self._key(request)
        chunks = self._chunks(request, self._media_bytes_max)
        if request.headers.get("content-type", "").startswith("application/json"):
            body = read_classification_json(b"".join([chunk async for chunk in chunks]))
        else:
            body = read_classification_form(await read_form(request.headers, chunks, files_max=IMAGES_MAX))

        async def answer() -> Response:
            classified = await classify_images(self._calls, key, body.model, body.images, top_k=body.top_k)
            return classification_response(classified, body.model, _answered(classified.id, classified.instance_uid))

        return _Work(answer)

    async def _key(self, request: Request) -> routes_pb2.KeyAccess:
        return await self._keys.authenticate(request.headers.get("authorization"))

    async def _body(self, request: Request) -> bytes:
        return b"".join([chunk async for chunk in self._chunks(request, self._body_bytes_max)])

    async def _chunks(self, request: Request, bytes_max: int) -> AsyncGenerator[bytes, None]:
        """The body, refused when it is too large, with or without a declared length.

        Somewhat more is read and dropped before the refusal: most clients listen only when they have sent everything.
        """
        declared = request.headers.get("content-length", "")
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size <= bytes_max:
                yield chunk
            elif size > bytes_max * _DROPPED_BODIES_MAX:
                break
        if size > bytes_max:
            said = int(declared) if declared.isdigit() else size
            raise BodyTooLarge(
                f"the body has at least {said} bytes; at most {bytes_max} are allowed: send less in one call"
            )


class _Work(Response):
    """A response that is worked out after it was returned, so that a client who leaves cancels the work."""

    def __init__(self, work: Callable[[], Awaitable[Response]]) -> None:
        self._work = work
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer() -> None:
            try:
                response = await self._work()
            except Problem as problem:
                response = error_response(problem)
            await response(scope, receive, send)

        await until_disconnect(receive, answer())


async def _whole_chat(generation: Generation, model: str) -> Response:
    text = "".join([piece async for piece in generation.pieces(leave_at_once=False)])
    content = {
        "id": f"chatcmpl-{generation.id}",
        "object": "chat.completion",
        "created": generation.created,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "finish_reason": _FINISH.get(generation.finish_reason, "stop"),
                "logprobs": None,
            }
        ],
        "usage": _usage(generation.usage),
    }
    return JsonResponse(content, headers={**_headers(), **_instance(generation.instance_uid)})


async def _chat_events(generation: Generation, model: str, *, with_running_usage: bool) -> AsyncGenerator[bytes, None]:
    """Chunks in OpenAI's shape; the stream always ends with the usage, whether or not it was asked for.

    `with_running_usage`: each chunk says what was consumed up to it.
    """

    def chunk(delta: dict[str, Any] | None, finish_reason: str | None = None, usage: Any = None) -> bytes:
        choices = (
            [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}]
        )
        content = {
            "id": f"chatcmpl-{generation.id}",
            "object": "chat.completion.chunk",
            "created": generation.created,
            "model": model,
            "choices": choices,
            "usage": usage,
        }
        return b"data: " + msgspec.json.encode(content) + b"\n\n"

    first = True
    async with aclosing(generation.pieces()) as pieces:
        async for piece in pieces:
            delta = {"role": "assistant", "content": piece} if first else {"content": piece}
            yield chunk(delta, usage=_usage(generation.received) if with_running_usage else None)
            first = False
    # The pieces have ended: the call is settled and durable before these last bytes leave.
    yield chunk({"role": "assistant", "content": ""} if first else {}, _FINISH.get(generation.finish_reason, "stop"))
    yield chunk(None, usage=_usage(generation.usage))
    yield b"data: [DONE]\n\n"


def _usage(usage: Counts) -> dict[str, int]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _model(name: str, destination: Any) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": destination.route.create_time.ToSeconds(),
        "owned_by": destination.route.project,
        # Azure OpenAI's field: whoever lists models here learns what each answers.
        "capabilities": {word: task in destination.deployment.tasks for word, task in _CAPABILITIES.items()},
    }


def _headers() -> dict[str, str]:
    return {"x-request-id": request_id.get()}


def _answered(record_id: str, instance_uid: str) -> dict[str, str]:
    """Headers of an answer without a place for its record's id."""
    return {**_headers(), **_instance(instance_uid), "x-modelyard-record": record_id}


def _instance(uid: str) -> dict[str, str]:
    return {INSTANCE_HEADER: uid} if uid else {}
