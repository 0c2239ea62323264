"""A gRPC server that knows its callers, answers errors in full, and stops gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from modelyard.type.v1 import access_pb2
from opentelemetry.trace import SpanKind
from sqlalchemy.exc import SQLAlchemyError

from chassis.access.caller import set_current_caller
from chassis.access.policy import AccessPolicy
from chassis.answer_headers import begin_answer
from chassis.database import problem_from_database
from chassis.errors import ConcurrentChange, DeadlineExceeded, InternalProblem, NotServed, Problem
from chassis.ids import new_uid
from chassis.rpc.status import status_from_problem
from chassis.settings import ServiceSettings
from chassis.telemetry import get_logger, request_id, span
from chassis.telemetry.metrics import DURATION_BUCKETS_S, Histogram
from chassis.web_address import is_loopback

log = get_logger(__name__)

_CALL_DURATION = Histogram(
    "rpc.server.duration",
    unit="s",
    description="From a call's arrival to the end of its answer.",
    attributes=("rpc.system", "rpc.service", "rpc.method", "rpc.grpc.status_code"),
    buckets=DURATION_BUCKETS_S,
)
_REQUEST_ID_HEADER = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_Context = grpc.aio.ServicerContext[Any, Any]


class ListenerRefused(Exception):
    """An address that would leave the machine in clear text."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificate chain and private key, PEM files."""

    certificate_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class ServedService:
    """One servicer of a contract.

    `name` is the service's full name, such as "modelyard.deploy.v1.DeployService"; `contract` the module that gRPC's
    compiler made for it, such as `deploy_pb2_grpc`.
    """

    name: str
    contract: ModuleType
    servicer: Any

    def add_to(self, server: grpc.aio.Server) -> None:
        """Let a server answer for it."""
        add = getattr(self.contract, f"add_{self.name.rpartition('.')[2]}Servicer_to_server")
        add(self.servicer, server)


def tls_from_settings(settings: ServiceSettings) -> Tls | None:
    """TLS when both files are set."""
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        return None
    return Tls(settings.tls_certificate_file, settings.tls_key_file)


def check_listener(address: str, *, has_tls: bool, insecure: bool) -> None:
    """Refuse an address beyond loopback without TLS.

    Raises:
        ListenerRefused: naming the address and the way out.
    """
    host = address.rpartition(":")[0].strip("[]")
    if not (is_loopback(host) or has_tls or insecure):
        raise ListenerRefused(
            f"{address} is not loopback and has no TLS; set tls_certificate_file and tls_key_file, or insecure=true to "
            "accept clear text"
        )


class RpcServer:
    """Serves services at one address, with health and reflection.

    Args:
        address: `host:port`; port 0 takes a free one, see `port`.
        services: What is served; each method must have an access rule.
        message_bytes_max: Largest request or response.
        concurrent_rpcs_max: More than this many at once are refused with RESOURCE_EXHAUSTED.
        deadline_s_default: Deadline of a unary call that came without one.
    """

    def __init__(
        self,
        address: str,
        services: Sequence[ServedService],
        access: AccessPolicy,
        *,
        tls: Tls | None = None,
        insecure: bool = False,
        message_bytes_max: int = 8 * 1024 * 1024,
        concurrent_rpcs_max: int = 1000,
        deadline_s_default: float = 60.0,
    ) -> None:
        check_listener(address, has_tls=tls is not None, insecure=insecure)
        access.learn(served.name for served in services)
        self._server = grpc.aio.server(
            interceptors=[_Guard(access, deadline_s_default)],
            maximum_concurrent_rpcs=concurrent_rpcs_max,
            options=[
                ("grpc.max_receive_message_length", message_bytes_max),
                ("grpc.max_send_message_length", message_bytes_max),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ],
        )
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._names = [served.name for served in services]
        reflection.enable_server_reflection([*self._names, reflection.SERVICE_NAME], self._server)
        for served in services:
            served.add_to(self._server)
        self._host = address.rpartition(":")[0]
        if tls is None:
            self.port = self._server.add_insecure_port(address)
        else:
            credentials = grpc.ssl_server_credentials([(tls.key_file.read_bytes(), tls.certificate_file.read_bytes())])
            self.port = self._server.add_secure_port(address, credentials)

    @classmethod
    def from_settings(
        cls, settings: ServiceSettings, services: Sequence[ServedService], access: AccessPolicy
    ) -> RpcServer:
        """A server with a service's own limits."""
        return cls(
            settings.grpc_address,
            services,
            access,
            tls=tls_from_settings(settings),
            insecure=settings.insecure,
            message_bytes_max=settings.grpc_message_bytes_max,
            concurrent_rpcs_max=settings.grpc_concurrent_rpcs_max,
            deadline_s_default=settings.grpc_deadline_s_default,
        )

    @property
    def address(self) -> str:
        return f"{self._host}:{self.port}"

    async def start(self) -> None:
        """Serve, and say so in health."""
        await self._server.start()
        for name in ("", *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float) -> None:
        """Take nothing new, let calls finish for `grace_s` seconds, then cut them."""
        with contextlib.suppress(Exception):
            await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)


class _Guard(grpc.aio.ServerInterceptor):
    """Around every call: request id, access, deadline, what is said beside the answer, errors."""

    def __init__(self, access: AccessPolicy, deadline_s_default: float) -> None:
        self._access = access
        self._deadline_s_default = deadline_s_default
        # By method; a server gives the same handler for every call of one.
        self._guarded: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        guarded = self._guarded.get(details.method)
        if guarded is None:
            handler = await continuation(details)
            if handler is None:
                return None
            guarded = self._guarded[details.method] = self._guard(details.method, handler)
        return guarded

    def _guard(self, method: str, handler: Any) -> Any:
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        rule = self._access.rule(method)
        ends = _Ends(method)

        async def unary(request: Any, context: _Context) -> Any:
            began_s, metadata, beside = time.monotonic(), _metadata(context), begin_answer()
            try:
                with ends.span(metadata):
                    # With the answer it costs nothing; ahead of it, it would be a write and a wake-up of its own.
                    context.set_trailing_metadata(_named(metadata))
                    await self._admit(rule, metadata, request)
                    call = _repeated_when_raced(handler.unary_unary, request, context)
                    if context.time_remaining() is not None:
                        answer = await call
                    else:
                        answer = await _within(self._deadline_s_default, call)
                    if beside:
                        context.set_trailing_metadata(((_REQUEST_ID_HEADER, request_id.get()), *beside.items()))
            except BaseException as error:  # noqa: BLE001 - raised again, or answered
                return await ends.badly(error, context, began_s, beside)
            ends.well(began_s)
            return answer

        async def stream(request: Any, context: _Context) -> AsyncIterator[Any]:
            """Of one request, or of a stream of them."""
            began_s, metadata, beside = time.monotonic(), _metadata(context), begin_answer()
            try:
                with ends.span(metadata):
                    await context.send_initial_metadata(_named(metadata))
                    await self._admit(rule, metadata, None if handler.request_streaming else request)
                    async with contextlib.aclosing(respond(request, context)) as responses:
                        async for response in responses:
                            yield response
                    if beside:
                        context.set_trailing_metadata(tuple(beside.items()))
            except BaseException as error:  # noqa: BLE001 - raised again, or answered
                await ends.badly(error, context, began_s, beside)
                return
            ends.well(began_s)

        if not (handler.request_streaming or handler.response_streaming):
            return grpc.unary_unary_rpc_method_handler(unary, **codec)
        # Health and reflection stream to everyone; their handlers are left as they are.
        if rule is None:
            return handler
        if not handler.response_streaming:
            raise NotImplementedError(f"{method}: requests that stream into one answer pass no guard")
        respond = handler.stream_stream if handler.request_streaming else handler.unary_stream
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(stream, **codec)
        return grpc.unary_stream_rpc_method_handler(stream, **codec)

    async def _admit(self, rule: access_pb2.AccessRule | None, metadata: dict[str, str], request: Any) -> None:
        if rule is not None:
            caller = await self._access.authenticate(rule, metadata)
            set_current_caller(await self._access.authorize(rule, caller, request))


def _metadata(context: _Context) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


def _named(metadata: dict[str, str]) -> tuple[tuple[str, str]]:
    """The header that says the id of this request: the caller's own one, or a new one."""
    given = metadata.get(_REQUEST_ID_HEADER, "")
    request_id.set(given if _REQUEST_ID.fullmatch(given) else new_uid())
    return ((_REQUEST_ID_HEADER, request_id.get()),)


class _Ends:
    """How calls of one method end: measured, and what a handler raised turned into a status.

    What nobody expected is logged, and named to the caller by its request id only.
    """

    def __init__(self, method: str) -> None:
        self._method = method
        service, _, name = method[1:].partition("/")
        self._name = f"{service}/{name}"
        self._attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}

    def span(self, metadata: dict[str, str]) -> contextlib.AbstractContextManager[None]:
        return span(self._name, self._attributes, kind=SpanKind.SERVER, parent=metadata.get("traceparent", ""))

    def well(self, began_s: float) -> None:
        self._measure(began_s, grpc.StatusCode.OK.value[0])

    async def badly(self, error: BaseException, context: _Context, began_s: float, beside: Mapping[str, str]) -> None:
        """Answer with a status, and what the call said beside its answer.

        Raises:
            BaseException: what ends a call that has no answer any more, or the abort that gRPC waits for.
        """
        if not isinstance(error, Exception) or isinstance(error, grpc.aio.AbortError):
            self._measure(began_s, grpc.StatusCode.CANCELLED.value[0])
            raise error
        problem = self._problem(error)
        self._measure(began_s, problem.code.grpc_number)
        status = status_from_problem(problem)
        named = (_REQUEST_ID_HEADER, request_id.get())
        await context.abort(status.code, status.details or "", (*status.trailing_metadata, named, *beside.items()))

    def _problem(self, error: Exception) -> Problem:
        if isinstance(error, Problem):
            log.info("refused", method=self._method, reason=error.reason, error=error.message)
            return error
        if isinstance(error, NotImplementedError):
            # What generated servicers raise for a method nobody wrote.
            return NotServed(f"{self._method} is not served here")
        log.exception("call failed", method=self._method)
        return problem_from_database(error) or InternalProblem(
            f"something broke on our side; the log has it under request id {request_id.get()}"
        )

    def _measure(self, began_s: float, status: int) -> None:
        _CALL_DURATION.record(time.monotonic() - began_s, *self._attributes.values(), status)


async def _within(limit_s: float, call: Awaitable[Any]) -> Any:
    limit = asyncio.timeout(limit_s)
    try:
        async with limit:
            return await call
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise DeadlineExceeded(
            f"the call took longer than {limit_s:g} s, this server's limit for calls without a deadline; set a deadline"
        ) from error


async def _repeated_when_raced(call: Callable[[Any, Any], Awaitable[Any]], request: Any, context: Any) -> Any:
    """Of two calls that raced for one unique key, the loser runs again and finds what the winner wrote.

    Its first run had no effect: what it wrote was rolled back, and what it asked others was asked before that.
    """
    try:
        return await call(request, context)
    except SQLAlchemyError as error:
        if not isinstance(problem_from_database(error), ConcurrentChange):
            raise
    return await call(request, context)
