"""External providers that speak OpenAI's API or Azure OpenAI's, over HTTP/1.1 with kept connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, cast
from urllib.parse import quote

import httpx2
import msgspec
from modelyard.catalog.v1 import providers_pb2
from opentelemetry.trace import SpanKind

from chassis.secret_files import SecretFiles, SecretUnusable
from chassis.telemetry import get_logger, span
from chassis.telemetry.metrics import meter
from chassis.web_address import WebAddressRefused, check_base_url
from services.inference.backends.provider_words import Chunk, read_chunk, read_vectors, refusal
from services.inference.domain.calls import Message, Sampling
from services.inference.domain.errors import (
    ProviderBusy,
    ProviderFailed,
    ProviderMisconfigured,
    ProviderTimeout,
    ProviderUnreachable,
)
from services.inference.domain.output import Embedded, Piece
from services.inference.domain.rates import CallRate

log = get_logger(__name__)

# Nobody's chunk is larger; the largest hold a whole answer.
_EVENT_BYTES_MAX = 4 * 1024 * 1024
_REFUSAL_BYTES_MAX = 64 * 1024
# The answer has ended; the connection may be used again if its last bytes come within this.
_LAST_BYTES_S = 0.2
_DONE = "[DONE]"
_UNCOUNTED = meter.create_counter(
    "modelyard.provider.uncounted",
    unit="{call}",
    description="Calls whose provider ended them without saying the usage.",
)


@dataclass(frozen=True, slots=True)
class ProviderLimits:
    """Of each provider.

    `calls_max`: calls at once. `calls_per_minute_max`: 0 allows any number. `connect_s_max`: until it is reached, seconds.
    `silence_s_max`: longest wait for the next bytes, seconds. `answer_bytes_max`: largest answer that comes as a whole.
    `insecure`: whether clear text may go to other machines. `proxy`: URL of a proxy on the way; empty for none.
    """

    calls_max: int = 100
    calls_per_minute_max: int = 0
    connect_s_max: float = 5.0
    silence_s_max: float = 60.0
    answer_bytes_max: int = 64 * 1024 * 1024
    insecure: bool = False
    proxy: str = ""


@dataclass(slots=True)
class _Connections:
    """To one provider."""

    client: httpx2.AsyncClient
    rate: CallRate
    running: int = 0


class ProviderBackend:
    """Every provider, with connections of its own each: a slow one takes nothing from the others.

    Args:
        keys: Where keys lie, by the reference that routes carry.
        transport: Instead of the network, for tests.
    """

    def __init__(
        self, keys: SecretFiles, limits: ProviderLimits, *, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        self._keys = keys
        self._limits = limits
        self._transport = transport
        self._connections: dict[tuple[str, str], _Connections] = {}

    async def generate(
        self, target: providers_pb2.ProviderTarget, record_id: str, messages: Sequence[Message], sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        """Stream an answer. Closing the iterator ends the request at the provider.

        Tokens are the provider's own count, which comes with the last piece; with `continuous_usage` it comes with every
        piece. Until it comes, a piece of text counts as one token: it holds at least one.

        Raises:
            ProviderUnreachable, ProviderBusy, ProviderMisconfigured: nothing was read.
            ContentFiltered, PromptTooLong, RequestInvalid: the provider refused the request.
            ProviderFailed, ProviderTimeout: it broke on the way; an answer without an end did, too.
        """
        body = {
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            **sampling.provider_parameters(),
            "stream": True,
            "stream_options": {
                "include_usage": True,
                **({"continuous_usage_stats": True} if target.continuous_usage else {}),
            },
        }
        finished = is_counted = False
        counted = 0
        async with (
            self._post(target, "chat/completions", record_id, body) as response,
            aclosing(_chunks(target.provider, response)) as chunks,
        ):
            async for chunk in chunks:
                finished = finished or bool(chunk.finish_reason)
                is_counted = is_counted or chunk.usage is not None
                produced = chunk.usage.completion_tokens - counted if chunk.usage else int(bool(chunk.text))
                counted += produced
                yield Piece(chunk.text, chunk.usage.prompt_tokens if chunk.usage else 0, produced, chunk.finish_reason)
        if not finished:
            raise ProviderFailed(
                f"provider {target.provider!r} ended the call before its answer; try again", retry_after_s=1.0
            )
        if not is_counted:
            self._note_uncounted(target)

    async def embed(
        self,
        target: providers_pb2.ProviderTarget,
        record_id: str,
        texts: Sequence[str],
        dimensions: int | None,
    ) -> Embedded:
        """Embed texts, one row a text, order kept.

        Raises:
            As `generate`.
        """
        body: dict[str, Any] = {"input": list(texts), "encoding_format": "float"}
        if dimensions is not None:
            body["dimensions"] = dimensions
        async with self._post(target, "embeddings", record_id, body) as response:
            content = await _read(response, self._limits.answer_bytes_max)
        if len(content) > self._limits.answer_bytes_max:
            raise ProviderFailed(
                f"the answer of provider {target.provider!r} has more than {self._limits.answer_bytes_max} bytes; "
                "send fewer texts"
            )
        # Megabytes of digits: other calls go on meanwhile.
        embedded, is_counted = await asyncio.to_thread(read_vectors, target.provider, content, len(texts))
        if not is_counted:
            self._note_uncounted(target)
        return embedded

    @asynccontextmanager
    async def _post(
        self, target: providers_pb2.ProviderTarget, path: str, record_id: str, body: Mapping[str, Any]
    ) -> AsyncIterator[httpx2.Response]:
        """An answer with status 200, to be read inside the block."""
        url, headers = self._address(target, path)
        connections = self._connections_to(target)
        content = msgspec.json.encode({"model": target.model, **body})
        # Its redirects are not followed: the key goes to the address that the operator set, and nowhere else.
        with self._admitted(target, connections), _provider_span(path, target):
            try:
                async with connections.client.stream(
                    "POST", url, content=content, headers={**headers, "x-request-id": record_id}
                ) as response:
                    if response.status_code != 200:
                        said = await _read(response, _REFUSAL_BYTES_MAX)
                        raise refusal(target.provider, response.status_code, response.headers, said)
                    yield response
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError) as error:
                log.warning("a provider is not reached", provider=target.provider, error=type(error).__name__)
                raise ProviderUnreachable(
                    f"provider {target.provider!r} could not be reached; try again", retry_after_s=1.0
                ) from None
            except httpx2.TimeoutException:
                raise ProviderTimeout(
                    f"provider {target.provider!r} said nothing for {self._limits.silence_s_max:g} s; what was delivered "
                    "is billed, try again"
                ) from None
            except httpx2.HTTPError as error:
                log.warning("a provider broke off", provider=target.provider, error=type(error).__name__)
                raise ProviderFailed(
                    f"provider {target.provider!r} broke while it answered; try again", retry_after_s=1.0
                ) from None

    def _address(self, target: providers_pb2.ProviderTarget, path: str) -> tuple[str, dict[str, str]]:
        """Where a call goes, and the headers that open it.

        Raises:
            ProviderMisconfigured: an address or a key that cannot be used; the log says why.
        """
        try:
            base_url = check_base_url(target.base_url, insecure=self._limits.insecure)
            # A service of one's own may take calls without any.
            key = self._keys.read(target.key_reference) if target.key_reference else ""
        except (WebAddressRefused, SecretUnusable) as why:
            log.error("a provider cannot be used", provider=target.provider, why=str(why))
            raise ProviderMisconfigured(
                f"this platform has no usable address or credential for provider {target.provider!r}; the log of "
                "inference tells its operator why"
            ) from None
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if target.kind == providers_pb2.PROVIDER_KIND_AZURE_OPENAI:
            deployment, version = quote(target.model, safe=""), quote(target.api_version, safe="")
            url = f"{base_url}/openai/deployments/{deployment}/{path}?api-version={version}"
            return url, {**headers, "api-key": key}
        return f"{base_url}/{path}", {**headers, "authorization": f"Bearer {key}"} if key else headers

    def _connections_to(self, target: providers_pb2.ProviderTarget) -> _Connections:
        """Limits belong to a credential at an address, however many models are called with it."""
        whose = (target.base_url, target.key_reference)
        if whose not in self._connections:
            limits = self._limits
            client = httpx2.AsyncClient(
                timeout=httpx2.Timeout(limits.silence_s_max, connect=limits.connect_s_max, pool=limits.connect_s_max),
                limits=httpx2.Limits(max_connections=limits.calls_max, max_keepalive_connections=limits.calls_max),
                follow_redirects=False,
                # What the process's environment says of proxies and netrc would go past the settings.
                trust_env=False,
                proxy=limits.proxy or None,
                transport=self._transport,
            )
            self._connections[whose] = _Connections(client, CallRate(limits.calls_per_minute_max))
        return self._connections[whose]

    @contextmanager
    def _admitted(self, target: providers_pb2.ProviderTarget, connections: _Connections) -> Iterator[None]:
        """Count a call while it runs.

        Raises:
            ProviderBusy: our own limits for the provider.
        """
        if connections.running >= self._limits.calls_max:
            raise ProviderBusy(
                f"{connections.running} calls run at provider {target.provider!r}; {self._limits.calls_max} are allowed: "
                "try again later",
                retry_after_s=1.0,
            )
        if wait_s := connections.rate.take(monotonic()):
            raise ProviderBusy(
                f"provider {target.provider!r} was called {self._limits.calls_per_minute_max} times within a minute, as "
                "often as is allowed: try again later",
                retry_after_s=wait_s,
            )
        connections.running += 1
        try:
            yield
        finally:
            connections.running -= 1

    def _note_uncounted(self, target: providers_pb2.ProviderTarget) -> None:
        log.warning("a provider did not say the usage of a call", provider=target.provider, model=target.model)
        _UNCOUNTED.add(1, {"modelyard.provider": target.provider})

    async def close(self) -> None:
        """Close every connection."""
        for connections in self._connections.values():
            await connections.client.aclose()


async def _chunks(provider: str, response: httpx2.Response) -> AsyncGenerator[Chunk, None]:
    """A stream's chunks up to its end."""
    source = httpx2.EventSource(response, max_event_size=_EVENT_BYTES_MAX)
    async with aclosing(cast(AsyncGenerator[httpx2.ServerSentEvent, None], aiter(source))) as events:
        async for event in events:
            if event.data == _DONE:
                break
            if event.data:
                yield read_chunk(provider, event.data)
        try:
            async with asyncio.timeout(_LAST_BYTES_S):
                async for _ in events:
                    pass
        except (TimeoutError, httpx2.HTTPError):
            return  # the answer is whole; only its connection is not used again


async def _read(response: httpx2.Response, bytes_max: int) -> bytes:
    """The body; of one that is larger than `bytes_max`, somewhat more than that."""
    content = bytearray()
    async for part in response.aiter_bytes():
        content += part
        if len(content) > bytes_max:
            break
    return bytes(content)


def _provider_span(path: str, target: providers_pb2.ProviderTarget) -> AbstractContextManager[None]:
    return span(
        f"provider {path}",
        {"modelyard.provider": target.provider, "gen_ai.request.model": target.model},
        kind=SpanKind.CLIENT,
    )
