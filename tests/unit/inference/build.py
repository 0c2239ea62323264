"""Inference without a network: directories that hear what a test says, and an instance that follows a script."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from modelyard.catalog.v1 import catalog_pb2
from modelyard.deploy.v1 import routes_pb2
from tritonclient.grpc import service_pb2

from services.inference.access.keys import KeyDirectory
from services.inference.access.routes import RouteDirectory
from services.inference.backends.provider import ProviderBackend, ProviderLimits
from services.inference.backends.templates import TemplateLimits, TemplateProcesses
from services.inference.backends.triton import TritonBackend
from services.inference.domain.output import Embedded, Piece
from services.inference.journal.journal import Journal, JournalLimits
from services.inference.usecases.calls import CallLimits, Calls
from tests.clock import ManualClock
from tests.infra.provider import ScriptedProvider, a_provider, provider_keys

PROJECT_UID = "00000000-0000-7000-8000-000000000001"
OTHER_PROJECT_UID = "00000000-0000-7000-8000-000000000002"
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
CREDENTIAL = "my_abcdefgh_secretsecretsecret"


async def until(holds: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait for a condition."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the condition did not hold within {timeout_s} s")
        await asyncio.sleep(0)


class StillBus:
    """Watches whose changes the test tells; `staleness_s` is how old the copies are, `on_the_way` what brings the rest."""

    def __init__(self) -> None:
        self.staleness_s = 0.0
        self.on_the_way: Callable[[], None] = lambda: None
        self._on_change: dict[str, Callable[[str, bytes | None, int], None]] = {}

    def watch_bucket(self, bucket: str, on_change: Callable[[str, bytes | None, int], None]) -> Any:
        self._on_change[bucket] = on_change
        return self

    async def catch_up(self, *, timeout_s: float) -> None:
        self.on_the_way()

    def tell(self, bucket: str, key: str, value: Any) -> None:
        self._on_change[bucket](key, None if value is None else value.SerializeToString(), 1)


def a_key(**changes: Any) -> routes_pb2.KeyAccess:
    return routes_pb2.KeyAccess(
        **{
            "key_id": "abcdefgh",
            "secret_sha256": hashlib.sha256(CREDENTIAL.encode()).digest(),
            "project_uid": PROJECT_UID,
            **changes,
        }
    )


def a_deployment(name: str = "one", weight: int = 100, **changes: Any) -> routes_pb2.RouteDeployment:
    return routes_pb2.RouteDeployment(
        **{
            "uid": f"deployment-{name}",
            "deployment": name,
            "weight": weight,
            "model_version": "publishers/p/models/m/versions/1",
            "tasks": [catalog_pb2.TASK_CHAT_COMPLETION, catalog_pb2.TASK_EMBEDDINGS],
            "serving": catalog_pb2.Serving(chat_template=TEMPLATE, embedding_dimensions=2),
            "targets": [routes_pb2.RouteTarget(instance_uid="instance", address="127.0.0.1:1", model_name="model")],
            **changes,
        }
    )


def a_route(endpoint: str = "chat", *deployments: routes_pb2.RouteDeployment, **changes: Any) -> routes_pb2.Route:
    return routes_pb2.Route(
        **{
            "endpoint_uid": f"endpoint-{endpoint}",
            "endpoint": endpoint,
            "project_uid": PROJECT_UID,
            "project": "demo",
            "serverless": True,
            "deployments": deployments or [a_deployment()],
            **changes,
        }
    )


Step = Piece | Exception | asyncio.Event


Given = TypeVar("Given")


async def played(script: Sequence[Given | Exception | asyncio.Event]) -> AsyncGenerator[Given, None]:
    """What a script gives, in order; it waits for its events and raises its errors on the way."""
    for step in script:
        if isinstance(step, asyncio.Event):
            await step.wait()
        elif isinstance(step, Exception):
            raise step
        else:
            yield step


class ScriptedBackend(TritonBackend):
    """Instances that give these pieces, raise these errors, and wait for these events, in order.

    `not_taken`: what an instance raises instead, by uid. `asked_instances`: by uid, in order.
    """

    def __init__(self, *script: Step) -> None:
        super().__init__(b"a secret of tests alone", token_timeout_s=5)
        self.script = list(script)
        self.is_running = False
        self.asked: list[int] = []
        self.asked_raw = ("", "")
        self.not_taken: dict[str, Exception] = {}
        self.asked_instances: list[str] = []

    def _ask(self, target: routes_pb2.RouteTarget) -> None:
        self.asked_instances.append(target.instance_uid)
        if not_taken := self.not_taken.get(target.instance_uid):
            raise not_taken

    async def generate(self, target: Any, *_: Any) -> AsyncGenerator[Piece, None]:
        self._ask(target)
        self.is_running = True
        try:
            async for step in played(self.script):
                yield step
        finally:
            self.is_running = False

    async def embed(self, target: Any, _id: str, texts: Sequence[str]) -> Embedded:
        self._ask(target)
        self.asked.append(len(texts))
        if len(self.asked) <= len(self.script):
            step = self.script[len(self.asked) - 1]
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, Exception):
                raise step
        # A text's number is its vector, so that order shows.
        return Embedded([int(text).to_bytes(8, "little") for text in texts], input_tokens=3 * len(texts))

    async def raw_stream(self, target: Any, request: Any) -> AsyncGenerator[service_pb2.ModelInferResponse, None]:
        yield await self.raw_infer(target, request, timeout_s=1)

    async def raw_infer(self, target: Any, request: Any, *, timeout_s: float) -> service_pb2.ModelInferResponse:
        self._ask(target)
        self.asked_raw = (request.model_name, request.id)
        self.is_running = True
        for step in self.script:
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, Exception):
                raise step
        tokens = service_pb2.ModelInferResponse.InferOutputTensor(name="num_output_tokens", datatype="INT32", shape=[1])
        return service_pb2.ModelInferResponse(
            model_name=request.model_name, id=request.id, outputs=[tokens], raw_output_contents=[b"\x05\0\0\0"]
        )


def a_piece(text: str, output_tokens: int = 1, finish_reason: str = "") -> Piece:
    return Piece(text, 7, output_tokens, finish_reason)


@contextlib.asynccontextmanager
async def calls_with(
    folder: Path, *script: Step, call_s_max: float = 30.0, provider: ScriptedProvider | None = None
) -> AsyncIterator[SimpleNamespace]:
    """The use cases over a real journal, a scripted instance and a scripted provider behind the endpoint `far`.

    `.calls`, `.journal`, `.backend`, `.bus`, `.key`
    """
    bus = StillBus()
    journal = Journal(folder, JournalLimits(commit_interval_s=0.01, retry_s=0.01))
    journal.start()
    backend = ScriptedBackend(*script)
    clock = ManualClock()
    routes = RouteDirectory(bus, clock, stale_s_max=60)  # type: ignore[arg-type]
    bus.tell("routes", "endpoint-chat", a_route())
    bus.tell("routes", "endpoint-far", a_route("far", a_deployment(targets=[], provider=a_provider())))
    providers = ProviderBackend(provider_keys(folder), ProviderLimits(), transport=provider)
    templates = TemplateProcesses(TemplateLimits())
    calls = Calls(routes, journal, backend, providers, templates, clock, CallLimits(call_s_max))
    try:
        yield SimpleNamespace(calls=calls, journal=journal, backend=backend, bus=bus, key=a_key(), clock=clock)
    finally:
        await providers.close()
        await templates.close()
        journal.close()


def a_key_directory(bus: StillBus, clock: ManualClock, **limits: Any) -> KeyDirectory:
    return KeyDirectory(bus, clock, **{"stale_s_max": 60, "arrive_s": 0.05, **limits})  # type: ignore[arg-type]
