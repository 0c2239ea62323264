"""GET and HEAD of files by signed address, with ranges and conditions (RFC 9110)."""

from __future__ import annotations

from contextlib import aclosing
from urllib.parse import quote

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis.clock import Clock
from chassis.database import Database
from chassis.errors import InvalidArgument, NotFound, Problem, http_status
from chassis.http_server import Outermost, until_disconnect
from chassis.telemetry import get_logger, request_id
from services.catalog.domain.downloads import Download, UrlSigner, byte_range
from services.catalog.domain.errors import DownloadUrlInvalid, RangeNotSatisfiable
from services.catalog.storage.queries import models as stored
from services.catalog.usecases.downloads import DownloadReader, find_file

log = get_logger(__name__)

FILE_ROUTE = "/v1/versions/{uid}/files/{artifact:path}"


def create_app(database: Database, clock: Clock, signer: UrlSigner, reader: DownloadReader) -> ASGIApp:
    """The HTTP face of the catalog."""
    files = _Files(database, clock, signer, reader)
    app = Starlette(
        routes=[Route(FILE_ROUTE, files.answer, methods=["GET"]), Route("/healthz", _health, methods=["GET"])],
        exception_handlers={Problem: _refuse, HTTPException: _refuse_route},
    )
    return Outermost(app, route_of=_route_of, refusal=_error)


class _Files:
    def __init__(self, database: Database, clock: Clock, signer: UrlSigner, reader: DownloadReader) -> None:
        self._database = database
        self._clock = clock
        self._signer = signer
        self._reader = reader

    async def answer(self, request: Request) -> Response:
        file = await self._file(request.path_params["uid"], request.path_params["artifact"])
        holder = self._signer.check(file, request.query_params, self._clock.now())
        etag = f'"{file.sha256}"'
        headers = {
            "accept-ranges": "bytes",
            "etag": etag,
            # What the digest names never changes; whoever keeps it had the right to.
            "cache-control": "private, max-age=31536000, immutable",
            "content-type": "application/octet-stream",
            "content-disposition": f"attachment; filename*=UTF-8''{quote(file.artifact.rpartition('/')[2])}",
            "x-content-type-options": "nosniff",
            "x-request-id": request_id.get(),
        }
        condition = _failed_condition(request, etag)
        if condition:
            return Response(status_code=condition, headers=headers)
        part = None
        if request.method == "GET" and request.headers.get("if-range", etag) == etag:
            part = byte_range(request.headers.get("range", ""), file.size_bytes)
        start, stop = part or (0, file.size_bytes)
        headers["content-length"] = str(stop - start)
        if part is not None:
            headers["content-range"] = f"bytes {start}-{stop - 1}/{file.size_bytes}"
        status = 206 if part is not None else 200
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers)
        log.info("download", version=file.model_version, artifact=file.artifact, holder=holder, start=start, stop=stop)
        return _Bytes(self._reader, file, start, stop, status, headers)

    async def _file(self, version_uid: str, artifact: str) -> Download:
        """Raises DownloadUrlInvalid also for a version that does not exist: an address that was not made here says
        nothing about what is."""
        async with self._database.reader() as session:
            version = await stored.version_by_uid(session, version_uid)
            model = None if version is None else await stored.model(session, version.model)
        if version is None or model is None:
            raise DownloadUrlInvalid("this address was not made here, or was altered; sign a new one")
        # Whether its holder might have it was decided when the address was signed.
        return find_file(model, version, artifact, for_service=True)


class _Bytes(Response):
    """A part of a file. The first piece is read before the status goes out, so that what fails has its own."""

    def __init__(
        self, reader: DownloadReader, file: Download, start: int, stop: int, status: int, headers: dict[str, str]
    ) -> None:
        self._reader, self._file, self._start, self._stop = reader, file, start, stop
        self.status_code = status
        self.background = None
        self.body = b""
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_disconnect(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        started = False
        async with aclosing(self._reader.read(self._file, self._start, self._stop)) as pieces:
            async for piece in pieces:
                if not started:
                    started = True
                    await self._begin(send)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                # Nothing is sent for it, but it waits until what was written before has gone out.
                await send({"type": "http.response.body", "body": b"", "more_body": True})
        if not started:
            await self._begin(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})


def _failed_condition(request: Request, etag: str) -> int:
    """412 or 304 where a condition says so, else 0."""
    if (wanted := request.headers.get("if-match")) is not None and not _names(wanted, etag):
        return 412
    if (known := request.headers.get("if-none-match")) is not None and _names(known, etag):
        return 304
    return 0


def _names(header: str, etag: str) -> bool:
    """Whether a list of entity tags names this one; weak ones count, since what a digest names is always the same."""
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in tags or etag in tags


async def _health(request: Request) -> Response:
    return Response('{"status": "ok"}', media_type="application/json")


async def _refuse(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)  # noqa: S101 - registered for no other class
    return _error(problem)


async def _refuse_route(request: Request, error: Exception) -> Response:
    """A path or a method that is not served."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for no other class
    wanted = f"{request.method[:16]} {request.url.path[:80]}"
    problem: Problem = NotFound(
        f"{wanted} is not served here; SignDownloadUrl of ArtifactService gives addresses that are"
    )
    if error.status_code == 405:
        problem = InvalidArgument(f"{wanted} is not served here; GET and HEAD are")
        problem.http = 405
    answer = _error(problem)
    answer.headers.update(error.headers or {})
    return answer


def _error(problem: Problem) -> Response:
    """`{"error": {"reason", "message"}}`; the message says the way out."""
    status = http_status(problem)
    log.info("refused", status=status, reason=problem.reason)
    headers = {"x-request-id": request_id.get()}
    if problem.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(problem.retry_after_s)))
    if isinstance(problem, RangeNotSatisfiable):
        headers["content-range"] = f"bytes */{problem.size_bytes}"
    body = msgspec.json.encode({"error": {"reason": problem.reason, "message": problem.message}})
    return Response(body, status, headers, media_type="application/json")


def _route_of(path: str) -> str:
    return FILE_ROUTE if path.startswith("/v1/versions/") else "other"
