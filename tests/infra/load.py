"""Mixed load on a running platform, and the client's own log of it: what each call asked for and what came back.

No client repeats a call, so one call is one request id. What the log says is what a customer could prove.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from time import monotonic
from typing import Any

import grpc
import httpx2
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from modelyard.inference.v1 import inference_pb2, inference_pb2_grpc

from chassis.ids import new_uid

# Longer than any fault may stop a call: a client that waits this long was forgotten.
CALL_S_MAX = 45.0
# A client that was refused or cut does not ask again at once.
PAUSE_S = 0.1
QUESTIONS = ("Name three fruits.", "What is gravity?", "Tell me about the sea in a few sentences.")


class Way(Enum):
    """How a call is made."""

    STREAM = "streamed over REST"
    WHOLE = "whole over REST"
    GRPC = "streamed over gRPC"
    EMBEDDINGS = "embeddings over REST"


class End(Enum):
    """How a call ended, as its client saw it."""

    COMPLETED = "completed"  # the whole answer came, with its usage
    REFUSED = "refused"  # an error came instead of an answer, or nobody listened
    CUT = "cut"  # the connection broke, or the answer said that it did
    LEFT = "left"  # the client hung up


@dataclass(frozen=True)
class Usage:
    """Tokens of one call."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Plan:
    """What a client is about to do.

    Attributes:
        leave_after_pieces: Hang up when this many pieces have come; None stays.
        leave_after_s: Hang up after this long; None stays.
        valid: Whether the key is right and the endpoint is there.
    """

    way: Way
    endpoint: str
    question: str
    max_tokens: int
    leave_after_pieces: int | None = None
    leave_after_s: float | None = None
    valid: bool = True


@dataclass
class Call:
    """One call. `request_id` is the client's own name for it, which stands on the usage record.

    Attributes:
        begun_s: When it was made, `time.monotonic`.
        ended_s: When its client heard its end; None while it runs.
        status: HTTP or gRPC status with the reason, or how the connection failed.
        record_id: The usage record's id, where the answer named it.
        piece_times_s: When each piece of text came.
    """

    plan: Plan
    request_id: str = field(default_factory=lambda: f"load-{new_uid()}")
    begun_s: float = field(default_factory=monotonic)
    ended_s: float | None = None
    end: End | None = None
    status: str = ""
    record_id: str = ""
    text: str = ""
    piece_times_s: list[float] = field(default_factory=list)
    usage: Usage | None = None

    @property
    def output_tokens_min(self) -> int:
        """Tokens that came, at least: no token is split over two pieces."""
        return len(self.piece_times_s)

    @property
    def output_tokens_max(self) -> int:
        """Tokens that came, at most: each has a byte, and a piece holds several only where a character takes several."""
        return self.output_tokens_min if self.text.isascii() else len(self.text.encode())

    def __str__(self) -> str:
        end = self.end.value if self.end else "running"
        return f"call {self.request_id} {self.plan.way.value} to {self.plan.endpoint}, {end} ({self.status})"


class ClientLog:
    """Every call in the order they were begun; wakes those who wait for what it says."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Something came in."""
        self._changed.set()

    async def until(self, holds: Callable[[], bool], what: str, *, s_max: float) -> None:
        """Wait for something that the log will show.

        Raises:
            AssertionError: naming what did not come about.
        """
        try:
            async with asyncio.timeout(s_max):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not within {s_max:g} s: {what}; {self.summary()}") from None

    @property
    def pieces_count(self) -> int:
        """Pieces of text that came, all calls together."""
        return sum(len(call.piece_times_s) for call in self.calls)

    def ended(self, *ends: End) -> list[Call]:
        """Calls that ended in one of these ways."""
        return [call for call in self.calls if call.end in ends]

    def completed_since(self, moment_s: float) -> set[tuple[Way, str]]:
        """Ways and endpoints of which a call begun after the moment was completed."""
        return {
            (call.plan.way, call.plan.endpoint)
            for call in self.calls
            if call.begun_s > moment_s and call.end is End.COMPLETED
        }

    def summary(self) -> str:
        """How many calls ended in which way."""
        counts = {end.value: len(self.ended(end)) for end in (*End, None) if end is not None}
        return f"{len(self.calls)} calls: {counts}, {len(self.ended(None))} running"  # type: ignore[arg-type]


@dataclass(frozen=True)
class Targets:
    """Where a project's calls go: endpoints that chat, and endpoints that embed."""

    chat: Sequence[str]
    embed: Sequence[str]

    def endpoints(self) -> set[str]:
        """Everything that can be called."""
        return {*self.chat, *self.embed}

    def ways(self) -> set[tuple[Way, str]]:
        """Everything that can be called, in every way."""
        chat = {(way, endpoint) for way in (Way.STREAM, Way.WHOLE, Way.GRPC) for endpoint in self.chat}
        return chat | {(Way.EMBEDDINGS, endpoint) for endpoint in self.embed}


class Load:
    """Clients that call one after the other until they are told to stop.

    Args:
        rest: Base URL of the REST face.
        inference: `host:port` of inference's gRPC.
        key: A key for every target.
        seed: What is called, and in which order, follows from it; when does not.
        clients: How many call at once.
    """

    def __init__(self, rest: str, inference: str, key: str, targets: Targets, *, seed: str, clients: int = 6) -> None:
        self.log = ClientLog()
        self._rest = rest
        self._inference = inference
        self._key = key
        self._plans = plans(targets, random.Random(seed))
        self._clients = clients
        self._stopping = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[ClientLog]:
        """Load for the block; when it is left, the calls under way are heard to their ends."""
        async with asyncio.TaskGroup() as clients:
            for _ in range(self._clients):
                clients.create_task(self._client())
            try:
                yield self.log
            finally:
                self._stopping = True

    async def _client(self) -> None:
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        options += [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
        async with (
            httpx2.AsyncClient(base_url=self._rest, timeout=CALL_S_MAX) as rest,
            grpc.aio.insecure_channel(self._inference, options=options) as channel,
        ):
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            while not self._stopping:
                call = Call(next(self._plans))
                self.log.calls.append(call)
                await self._make(call, rest, stub)
                call.ended_s = monotonic()
                self.log.changed()
                if call.end in (End.REFUSED, End.CUT):
                    await asyncio.sleep(PAUSE_S)

    async def _make(self, call: Call, rest: httpx2.AsyncClient, stub: Any) -> None:
        """Make a call and note how it ended; an error that no crash explains is the test's own and is raised."""
        try:
            async with asyncio.timeout(call.plan.leave_after_s):
                if call.plan.way is Way.GRPC:
                    await self._stream_grpc(call, stub)
                elif call.plan.way is Way.STREAM:
                    await self._stream(call, rest)
                else:
                    await self._whole(call, rest)
        except TimeoutError:
            call.end, call.status = End.LEFT, f"left after {call.plan.leave_after_s:.2f} s"
        except httpx2.ConnectError as refused:
            call.end, call.status = End.REFUSED, type(refused).__name__
        except httpx2.TransportError as broken:
            call.end, call.status = End.CUT, type(broken).__name__
        except grpc.aio.AioRpcError as broken:
            call.end, call.status = _end_of_rpc(call, broken)

    def _request(self, call: Call, rest: httpx2.AsyncClient) -> httpx2.Request:
        plan = call.plan
        body: dict[str, Any] = {"model": plan.endpoint}
        if plan.way is Way.EMBEDDINGS:
            body["input"] = [plan.question]
        else:
            body["messages"] = [{"role": "user", "content": plan.question}]
            body |= {"max_tokens": plan.max_tokens, "temperature": 0, "stream": plan.way is Way.STREAM}
        return rest.build_request(
            "POST",
            "/v1/embeddings" if plan.way is Way.EMBEDDINGS else "/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {self._key_of(plan)}", "x-request-id": call.request_id},
        )

    def _key_of(self, plan: Plan) -> str:
        is_wrong = not plan.valid and not plan.endpoint.endswith(_NO_ENDPOINT)
        return self._key[:-1] + ("a" if self._key[-1] != "a" else "b") if is_wrong else self._key

    async def _whole(self, call: Call, rest: httpx2.AsyncClient) -> None:
        response = await rest.send(self._request(call, rest))
        content = response.json()
        if response.status_code != 200:
            call.end, call.status = End.REFUSED, f"{response.status_code} {content['error']['code']}"
            return
        call.record_id = response.headers.get("x-modelyard-record") or content["id"].removeprefix("chatcmpl-")
        _complete(call, content["usage"]["prompt_tokens"], content["usage"].get("completion_tokens", 0))

    async def _stream(self, call: Call, rest: httpx2.AsyncClient) -> None:
        response = await rest.send(self._request(call, rest), stream=True)
        try:
            if response.status_code != 200:
                content = json.loads(await response.aread())
                call.end, call.status = End.REFUSED, f"{response.status_code} {content['error']['code']}"
                return
            async for line in response.aiter_lines():
                self._take_event(call, line)
                if call.end is None and _leaves(call):
                    call.end, call.status = End.LEFT, f"left after {call.output_tokens_min} pieces"
                if call.end in (End.LEFT, End.CUT):
                    return
            if call.end is None:
                call.end, call.status = End.CUT, "ended without usage"
        finally:
            # A connection whose answer was not read to its end is closed by this.
            await response.aclose()

    def _take_event(self, call: Call, line: str) -> None:
        if not line.startswith("data: ") or line == "data: [DONE]":
            return
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            call.end, call.status = End.CUT, f"200, then {event['error']['code']}"
            return
        call.record_id = event["id"].removeprefix("chatcmpl-")
        for choice in event["choices"]:
            self._take_piece(call, choice["delta"].get("content") or "")
        if event["usage"]:
            _complete(call, event["usage"]["prompt_tokens"], event["usage"]["completion_tokens"])

    async def _stream_grpc(self, call: Call, stub: Any) -> None:
        request = inference_pb2.ChatCompletionRequest(
            model=call.plan.endpoint,
            messages=[inference_pb2.ChatMessage(role="user", content=call.plan.question)],
            max_tokens=call.plan.max_tokens,
            temperature=0,
        )
        metadata = (("authorization", f"Bearer {self._key_of(call.plan)}"), ("x-request-id", call.request_id))
        answer = stub.ChatCompletion(request, metadata=metadata, timeout=CALL_S_MAX)
        try:
            async for response in answer:
                call.record_id = response.id
                self._take_piece(call, response.text)
                if response.HasField("usage"):
                    _complete(call, response.usage.input_tokens, response.usage.output_tokens)
                elif _leaves(call):
                    call.end, call.status = End.LEFT, f"left after {call.output_tokens_min} pieces"
                    return
            if call.end is None:
                call.end, call.status = End.CUT, "ended without usage"
        finally:
            answer.cancel()

    def _take_piece(self, call: Call, text: str) -> None:
        if text:
            call.text += text
            call.piece_times_s.append(monotonic())
            self.log.changed()


_NO_ENDPOINT = "-nowhere"


def plans(targets: Targets, rng: random.Random) -> Iterator[Plan]:
    """What the clients do, one after the other, for ever: rounds of every way to every target, streams twice.

    In each round there are two calls besides that hang up and one that is refused, in an order that changes.
    """
    ways = sorted(targets.ways(), key=lambda one: (one[0].value, one[1]))
    ways += [one for one in ways if one[0] is Way.STREAM]
    while True:
        calls = [Plan(way, endpoint, rng.choice(QUESTIONS), rng.randint(2, 8)) for way, endpoint in ways]
        left = (_leaving(plan, rng) for plan in rng.sample(calls, len(calls)) if plan.way is not Way.EMBEDDINGS)
        wrong = rng.choice(calls)
        refused = replace(wrong, valid=False, endpoint=wrong.endpoint + rng.choice(("", _NO_ENDPOINT)))
        calls += [*itertools.islice(left, 2), refused]
        yield from rng.sample(calls, len(calls))


def _leaving(plan: Plan, rng: random.Random) -> Plan:
    """The same call by a client that hangs up on the way."""
    if plan.way is Way.WHOLE:
        return replace(plan, leave_after_s=rng.uniform(0.01, 0.4))
    return replace(plan, max_tokens=plan.max_tokens + 6, leave_after_pieces=rng.randint(1, 6))


def _complete(call: Call, input_tokens: int, output_tokens: int) -> None:
    call.end, call.status, call.usage = End.COMPLETED, "200", Usage(input_tokens, output_tokens)


def _leaves(call: Call) -> bool:
    after = call.plan.leave_after_pieces
    return after is not None and call.output_tokens_min >= after


def _end_of_rpc(call: Call, broken: grpc.aio.AioRpcError) -> tuple[End, str]:
    """A refusal carries the server's reason, or says that nobody listened; all else is a connection that broke."""
    status = rpc_status.from_call(broken)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            end = End.CUT if call.piece_times_s else End.REFUSED
            return end, f"{broken.code().name} {info.reason}"
    is_unheard = not call.piece_times_s and "failed to connect" in (broken.details() or "").lower()
    return End.REFUSED if is_unheard else End.CUT, f"{broken.code().name} {broken.details()}"
