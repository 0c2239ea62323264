"""Mixed load on a running platform, and the client's own log of it: what each call asked, and what it saw."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

import grpc
import openai
from modelyard.inference.v1 import inference_pb2, inference_pb2_grpc
from openai import AsyncOpenAI

from chassis.ids import new_uid
from tests.infra.up import Up

PROMPT = "Tell me about the sea."
CALL_S_MAX = 60.0


class Seen(Enum):
    """How a call ended as its client saw it."""

    COMPLETED = "completed"  # the whole answer with its usage
    REFUSED = "refused"  # an error before any output, or no connection
    CUT = "cut"  # output came, and then an error, a lost connection, or the client's own hang-up


@dataclass
class LoadCall:
    """One call. `request_id` is the client's own, and stands on the usage record."""

    request_id: str
    kind: str
    endpoint: str
    max_tokens: int
    seen: Seen = Seen.REFUSED
    detail: str = ""
    # Pieces of output that arrived; each holds at least one token.
    pieces: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    is_done: bool = False

    def complete(self, input_tokens: int, output_tokens: int) -> None:
        """The whole answer arrived, with this usage."""
        self.seen = Seen.COMPLETED
        self.input_tokens, self.output_tokens = input_tokens, output_tokens

    def break_off(self, detail: str) -> None:
        """It ended before that."""
        self.seen = Seen.CUT if self.pieces else Seen.REFUSED
        self.detail = detail


@dataclass
class Endpoints:
    """What is called: a chat model on the shared pool, an embedding model there, and a chat model on instances."""

    serverless: str = "chat"
    vectors: str = "vectors"
    managed: str = "managed"


@dataclass
class Load:
    """Clients that call without pause until they are told to stop.

    Args:
        key: Inference key for all endpoints.
        seed: Decides what each client does; the same seed gives the same sequence of calls.
    """

    up: Up
    key: str
    seed: int
    clients: int = 5
    endpoints: Endpoints = field(default_factory=Endpoints)
    calls: list[LoadCall] = field(default_factory=list)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _running: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        """Begin."""
        self._running = [asyncio.create_task(self._client(number)) for number in range(self.clients)]

    async def stop(self) -> None:
        """Let every call end, and begin no more."""
        self._stop.set()
        await asyncio.gather(*self._running)

    def completed(self, calls: Iterable[LoadCall] | None = None) -> set[str]:
        """Endpoints that answered a whole call, among all calls or these."""
        return {call.endpoint for call in (self.calls if calls is None else calls) if call.seen is Seen.COMPLETED}

    async def until(self, holds: Callable[[], bool], *, s_max: float = 90.0) -> None:
        """Wait for something that only ending calls can bring about."""
        async with asyncio.timeout(s_max):
            while not holds():
                self._ended.clear()
                await self._ended.wait()

    async def _client(self, number: int) -> None:
        rng = random.Random(f"{self.seed}/{number}")
        base_url = f"{self.up.addresses['rest']}/v1"
        async with AsyncOpenAI(base_url=base_url, api_key=self.key, max_retries=0, timeout=CALL_S_MAX) as client:
            while not self._stop.is_set():
                await self._one(client, rng)

    async def _one(self, client: AsyncOpenAI, rng: random.Random) -> None:
        kind = rng.choice(["stream", "stream", "whole", "embed", "grpc", "hang-up"])
        chat = rng.choice([self.endpoints.serverless, self.endpoints.managed])
        call = LoadCall(
            request_id=f"load-{new_uid()}",
            kind=kind,
            endpoint=self.endpoints.vectors if kind == "embed" else chat,
            max_tokens=rng.randint(4, 24),
        )
        self.calls.append(call)
        ways: dict[str, Callable[[], Awaitable[None]]] = {
            "stream": lambda: self._stream(client, call, leave_after=None),
            "hang-up": lambda: self._stream(client, call, leave_after=rng.randint(1, 6)),
            "whole": lambda: self._whole(client, call),
            "embed": lambda: self._embed(client, call),
            "grpc": lambda: self._grpc(call),
        }
        try:
            await ways[kind]()
        except openai.APIStatusError as refused:
            call.break_off(str(refused.status_code))
        except (openai.APIError, grpc.aio.AioRpcError) as lost:
            call.break_off(type(lost).__name__)
        call.is_done = True
        self._ended.set()
        if call.seen is not Seen.COMPLETED:
            # A client that is refused does not ask again at once.
            await asyncio.sleep(0.05)

    async def _stream(self, client: AsyncOpenAI, call: LoadCall, *, leave_after: int | None) -> None:
        stream = await client.chat.completions.create(
            model=call.endpoint,
            messages=[{"role": "user", "content": PROMPT}],
            max_tokens=call.max_tokens,
            stream=True,
            extra_headers={"x-request-id": call.request_id},
        )
        async with stream:
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    call.pieces += 1
                if chunk.usage is not None:
                    call.complete(chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
                elif leave_after is not None and call.pieces >= leave_after:
                    call.break_off("hung up")
                    return
        if call.seen is not Seen.COMPLETED:
            call.break_off("the stream ended without its usage")

    async def _whole(self, client: AsyncOpenAI, call: LoadCall) -> None:
        answer = await client.chat.completions.create(
            model=call.endpoint,
            messages=[{"role": "user", "content": PROMPT}],
            max_tokens=call.max_tokens,
            extra_headers={"x-request-id": call.request_id},
        )
        assert answer.usage is not None
        call.complete(answer.usage.prompt_tokens, answer.usage.completion_tokens)

    async def _embed(self, client: AsyncOpenAI, call: LoadCall) -> None:
        answer = await client.embeddings.create(
            model=call.endpoint, input=[PROMPT, call.request_id], extra_headers={"x-request-id": call.request_id}
        )
        call.complete(answer.usage.prompt_tokens, 0)

    async def _grpc(self, call: LoadCall) -> None:
        request = inference_pb2.ChatCompletionRequest(
            model=call.endpoint,
            messages=[inference_pb2.ChatMessage(role="user", content=PROMPT)],
            max_tokens=call.max_tokens,
        )
        metadata = (("authorization", f"Bearer {self.key}"), ("x-request-id", call.request_id))
        async with grpc.aio.insecure_channel(self.up.addresses["inference"]) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            async for piece in stub.ChatCompletion(request, metadata=metadata, timeout=CALL_S_MAX):
                call.pieces += bool(piece.text)
                if piece.HasField("usage"):
                    call.complete(piece.usage.input_tokens, piece.usage.output_tokens)
