"""Real instances for tests: the local provider over a temporary folder, and a client of their Triton."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from chassis.clock import SystemClock
from chassis.instance_secret import INSTANCE_SECRET_HEADER, instance_secret
from engines.weights import embedded_artifacts
from services.catalog.sources.content_files import SHIPPED, read_content
from services.catalog.sources.wheels import locate
from services.deploy.compute.interface import InstanceSpec, InstanceState, InstanceView
from services.deploy.compute.local import LocalProvider
from services.deploy.compute.settings import LocalSettings
from tests.infra.packages import FOLDER as PACKAGES
from tests.infra.packages import installed_packages

CLUSTER_SECRET = b"a cluster secret for tests alone"
MODELS = {"llamacpp": "SmolLM2-135M-Instruct", "onnx": "all-MiniLM-L6-v2"}
# Of the shipped content; their wheels are installed on demand.
INSTALLED = {
    "whisper": "whisper-tiny.en",
    "images": "text-image-orientation",
    "wordvectors": "wordllama-l2-supercat-256",
}


def local_settings(folder: Path, **changes: Any) -> LocalSettings:
    """Settings whose files lie in `folder`, looking often enough for tests."""
    secret_file = folder / "cluster.secret"
    secret_file.write_bytes(CLUSTER_SECRET)
    settings = LocalSettings(
        instances_dir=folder / "instances",
        cluster_secret_file=secret_file,
        check_interval_s=0.2,
        load_idle_s=5.0,
        restart_backoff_s=0.1,
        poll_interval_s=0.1,
        packages_dir=PACKAGES,
    )
    return replace(settings, **changes)


def instance_spec(engine: str, instance_uid: str, **parameters: str) -> InstanceSpec:
    """An instance of the embedded model of an engine."""
    artifacts = embedded_artifacts(MODELS[engine]) if engine in MODELS else {}
    if engine in INSTALLED:
        artifacts, known = installed_model(INSTALLED[engine])
        parameters = {**known, **parameters}
    return InstanceSpec(
        instance_uid=instance_uid,
        engine=engine,
        model_name="model",
        artifacts={name: str(path) for name, path in artifacts.items()},
        parameters=parameters,
        vcpus=2,
        memory_bytes=4 * 1024**3,
    )


def installed_model(model: str) -> tuple[dict[str, Path], dict[str, str]]:
    """Artifacts and engine parameters of a shipped model whose wheels are installed on demand."""
    version = next(one for one in read_content(SHIPPED).models if one.id == model).versions[-1]
    assert version.serving is not None
    folder = installed_packages()
    return {one.name: locate(one, folder) for one in version.artifacts}, version.serving.parameters


@asynccontextmanager
async def local_provider(settings: LocalSettings, clock: SystemClock | None = None) -> AsyncIterator[LocalProvider]:
    """A provider whose instances are all gone at the end."""
    provider = LocalProvider(settings, clock)
    try:
        yield provider
    finally:
        # A launch that nobody waits for any more may still be under way, and would outlive the test.
        await asyncio.to_thread(provider._actions.shutdown)
        last = LocalProvider(settings, clock)
        await asyncio.gather(*(last.terminate(view.instance_uid) for view in await last.list()))


async def view_of(provider: LocalProvider, instance_uid: str) -> InstanceView:
    return next(view for view in await provider.list() if view.instance_uid == instance_uid)


async def wait_for_view(
    provider: LocalProvider, instance_uid: str, holds: Callable[[InstanceView], bool], *, timeout_s: float = 60
) -> InstanceView:
    """Wait until a condition holds for an instance; the error shows what it is instead."""
    deadline_s = time.monotonic() + timeout_s
    while not holds(view := await view_of(provider, instance_uid)):
        if time.monotonic() > deadline_s:
            log = "\n".join(await provider.logs(instance_uid, 20))
            raise TimeoutError(f"after {timeout_s} s the instance is {view}; its log ends with\n{log}")
        await asyncio.sleep(0.05)
    return view


async def wait_for_state(
    provider: LocalProvider, instance_uid: str, state: InstanceState, *, timeout_s: float = 60
) -> InstanceView:
    return await wait_for_view(provider, instance_uid, lambda view: view.state is state, timeout_s=timeout_s)


async def wait_until(holds: Callable[[], Awaitable[bool]] | Callable[[], bool], *, timeout_s: float = 20) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        found = holds()
        if found if isinstance(found, bool) else await found:
            return
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the condition did not hold within {timeout_s} s")
        await asyncio.sleep(0.05)


@dataclass
class TextAnswer:
    """Everything one streamed call gave back, one entry a response."""

    texts: list[str] = field(default_factory=list)
    input_tokens: list[int | None] = field(default_factory=list)
    output_tokens: list[int] = field(default_factory=list)
    finish_reasons: list[str] = field(default_factory=list)
    error: str = ""
    first_text_s: float | None = None
    total_s: float = 0.0

    @property
    def text(self) -> str:
        return "".join(self.texts)


class EngineRefused(Exception):
    """What an engine said instead of an answer."""


class EngineClient:
    """Calls one instance's Triton as inference does."""

    def __init__(self, view: InstanceView, *, secret: str | None = None) -> None:
        self.view = view
        self.secret = secret or instance_secret(CLUSTER_SECRET, view.instance_uid)
        self.metadata = ((INSTANCE_SECRET_HEADER, self.secret),)
        self._channel = grpc.aio.insecure_channel(view.address)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def generate(
        self,
        prompt: str,
        *,
        request_id: str = "",
        stream: bool = True,
        cancel_after: int | None = None,
        timeout_s: float = 60,
        exclude_input: bool | None = None,
        answering: asyncio.Event | None = None,
        **sampling: Any,
    ) -> TextAnswer:
        """One text call. After `cancel_after` responses the client hangs up; the first response sets `answering`."""
        request = service_pb2.ModelInferRequest(model_name="model", id=request_id)
        add_input(request, "text_input", "BYTES", [1], bytes_element(prompt))
        add_input(request, "stream", "BOOL", [1], bytes([stream]))
        add_input(request, "sampling_parameters", "BYTES", [1], bytes_element(json.dumps(sampling)))
        if exclude_input is not None:
            add_input(request, "exclude_input_in_output", "BOOL", [1], bytes([exclude_input]))
        for name in ("return_finish_reason", "return_num_input_tokens", "return_num_output_tokens"):
            add_input(request, name, "BOOL", [1], b"\x01")
        answer, began_s = TextAnswer(), time.perf_counter()
        call = self.stub.ModelStreamInfer(metadata=self.metadata, timeout=timeout_s)
        await call.write(request)
        await call.done_writing()
        async for message in call:
            if message.error_message:
                answer.error = message.error_message
                continue
            if answering is not None:
                answering.set()
            outputs = named_outputs(message.infer_response)
            answer.texts.append(first_text(outputs["text_output"]))
            if outputs["text_output"][4:] and answer.first_text_s is None:
                answer.first_text_s = time.perf_counter() - began_s
            counted = outputs.get("num_input_tokens")
            answer.input_tokens.append(int.from_bytes(counted, "little") if counted else None)
            answer.output_tokens.append(int.from_bytes(outputs["num_output_tokens"], "little"))
            answer.finish_reasons.append(first_text(outputs["finish_reason"]))
            if cancel_after is not None and len(answer.texts) >= cancel_after:
                call.cancel()
                break
        answer.total_s = time.perf_counter() - began_s
        return answer

    async def infer(self, request: Any, *, timeout_s: float = 30) -> dict[str, bytes]:
        return named_outputs(await self.stub.ModelInfer(request, metadata=self.metadata, timeout=timeout_s))

    async def echo(self, text: str) -> str:
        """One call of the engine that gives back what it got."""
        request = service_pb2.ModelInferRequest(model_name="model")
        add_input(request, "INPUT", "BYTES", [1], bytes_element(text))
        return first_text((await self.infer(request))["OUTPUT"])

    async def transcribe(self, audio: bytes, *, request_id: str = "", **parameters: Any) -> list[dict[str, bytes]]:
        """The outputs of each response; a refusal is raised with its text."""
        return [answer async for answer in self.transcribing(audio, request_id=request_id, **parameters)]

    async def transcribing(
        self, audio: bytes, *, request_id: str = "", **parameters: Any
    ) -> AsyncIterator[dict[str, bytes]]:
        """The outputs of each response as it comes; leaving hangs up."""
        request = service_pb2.ModelInferRequest(model_name="model", id=request_id)
        add_input(request, "AUDIO", "BYTES", [1], bytes_tensor([audio]))
        add_input(request, "PARAMETERS", "BYTES", [1], bytes_element(json.dumps(parameters)))
        call = self.stub.ModelStreamInfer(metadata=self.metadata, timeout=60)
        refused = ""
        try:
            await call.write(request)
            await call.done_writing()
            async for message in call:
                refused = message.error_message
                if not refused:
                    yield named_outputs(message.infer_response)
        finally:
            call.cancel()
        if refused:
            raise EngineRefused(refused)

    async def classify(self, images: list[bytes], *, request_id: str = "") -> list[list[tuple[str, float]]]:
        """Labels with their scores, one list an image."""
        request = service_pb2.ModelInferRequest(model_name="model", id=request_id)
        add_input(request, "IMAGE", "BYTES", [len(images), 1], bytes_tensor(images))
        outputs = await self.infer(request)
        labels = [label.decode() for label in bytes_elements(outputs["LABEL"])]
        found = list(zip(labels, struct.unpack(f"<{len(labels)}f", outputs["SCORE"]), strict=True))
        width = len(found) // len(images)
        return [found[start : start + width] for start in range(0, len(found), width)]

    async def embed(self, texts: list[str], *, request_id: str = "") -> tuple[list[list[float]], list[int]]:
        """Vectors and token counts, one a text."""
        request = service_pb2.ModelInferRequest(model_name="model", id=request_id)
        content = b"".join(bytes_element(text) for text in texts)
        add_input(request, "TEXT", "BYTES", [len(texts), 1], content)
        outputs = await self.infer(request)
        values = struct.unpack(f"<{len(outputs['EMBEDDING']) // 4}f", outputs["EMBEDDING"])
        width = len(values) // len(texts)
        vectors = [list(values[row * width : (row + 1) * width]) for row in range(len(texts))]
        return vectors, list(struct.unpack(f"<{len(texts)}i", outputs["NUM_INPUT_TOKENS"]))


def add_input(request: Any, name: str, datatype: str, shape: list[int], content: bytes) -> None:
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.append(content)


def bytes_element(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<I", len(content)) + content


def bytes_tensor(elements: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def bytes_elements(raw: bytes) -> list[bytes]:
    """Every element of a BYTES tensor."""
    elements = []
    while raw:
        length = struct.unpack_from("<I", raw)[0]
        elements.append(raw[4 : 4 + length])
        raw = raw[4 + length :]
    return elements


def first_text(raw: bytes) -> str:
    """The one element of a BYTES tensor; half a character is an error."""
    return raw[4:].decode("utf-8", errors="strict")


def named_outputs(response: Any) -> dict[str, bytes]:
    names = [output.name for output in response.outputs]
    return dict(zip(names, response.raw_output_contents, strict=True))
