"""An external provider that follows a script, for what no real one does when a test needs it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
from modelyard.catalog.v1 import providers_pb2

from chassis.secret_files import SecretFiles

PROVIDER_KEY = "sk-a-key-of-tests-alone"
DONE = b"data: [DONE]\n\n"


def a_provider(**changes: Any) -> providers_pb2.ProviderTarget:
    return providers_pb2.ProviderTarget(
        **{
            "provider": "acme",
            "kind": providers_pb2.PROVIDER_KIND_OPENAI,
            "base_url": "https://api.acme.example/v1",
            "model": "talker-1",
            "key_reference": "acme",
            **changes,
        }
    )


def provider_keys(folder: Path) -> SecretFiles:
    """A folder with the key that `a_provider` refers to."""
    keys = folder / "provider-keys"
    keys.mkdir(parents=True)
    (keys / "acme").write_text(f"{PROVIDER_KEY}\n")
    (keys / "acme").chmod(0o600)
    return SecretFiles(keys)


class _Parts(httpx2.AsyncByteStream):
    """A body in parts; an exception among them breaks it off, an event holds it up."""

    def __init__(self, parts: Sequence[bytes | Exception | asyncio.Event]) -> None:
        self._parts = parts
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            if isinstance(part, asyncio.Event):
                await part.wait()
            elif isinstance(part, Exception):
                raise part
            else:
                yield part

    async def aclose(self) -> None:
        self.is_closed = True


class ScriptedProvider(httpx2.AsyncBaseTransport):
    """A provider that answers each request with this status, these headers and this body, or raises this error."""

    def __init__(
        self, *parts: bytes | Exception | asyncio.Event, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.requests: list[httpx2.Request] = []
        self.status = status
        self.headers = {"content-type": "text/event-stream", **(headers or {})}
        self.body = _Parts(parts)
        self.not_reached: Exception | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        self.requests.append(request)
        if self.not_reached is not None:
            raise self.not_reached
        return httpx2.Response(self.status, headers=self.headers, stream=self.body)

    @property
    def asked(self) -> dict[str, Any]:
        """The body of the last request."""
        found: dict[str, Any] = json.loads(self.requests[-1].content)
        return found


def an_event(content: Any) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def a_chunk(text: str | None = None, finish_reason: str | None = None, usage: tuple[int, int] | None = None) -> bytes:
    """An event of a streamed answer, with what else providers put there."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason, "logprobs": None}
    counts = None if usage is None else {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": 0}
    is_last = text is None and finish_reason is None
    return an_event(
        {"id": "c", "object": "chat.completion.chunk", "choices": [] if is_last else [choice], "usage": counts}
    )
