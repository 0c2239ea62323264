"""NATS: acknowledged publishing, durable consumers, ordered reads and watched buckets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext

from chassis.errors import Code, Problem
from chassis.events import Event, EventMalformed, decode_projection, event_from_message
from chassis.ordered import NATS_ERRORS, BucketWatch, OnChange, OrderedReader, OrderLost
from chassis.pull import PullFailed, PullSubscription
from chassis.telemetry import get_logger

log = get_logger(__name__)

__all__ = [
    "NATS_ERRORS",
    "BucketWatch",
    "Bus",
    "BusUnavailable",
    "OnChange",
    "PullFailed",
    "PullSubscription",
    "StreamFull",
    "inbox_prefix",
]

_EXPECTED_REVISION = "Nats-Expected-Last-Subject-Sequence"
_WRONG_REVISION = {10071, 10164}
_STORE_FAILED = 10077
# A connection whose other end vanished without a word is noticed after two of these.
_PING_INTERVAL_S = 10
_RETRY_S_MAX = 5.0
_Answer = TypeVar("_Answer")


class BusUnavailable(Problem):
    """NATS is away or did not acknowledge in time; the same message may be published again."""

    code = Code.UNAVAILABLE
    reason = "BUS_UNAVAILABLE"


class StreamFull(BusUnavailable):
    """The stream takes nothing until its consumer has caught up; keep the message and try later."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "STREAM_FULL"


def inbox_prefix(name: str) -> str:
    """Where replies to one identity go; its credential lets nobody else listen there."""
    return f"_INBOX.{name}"


async def _answered(request: Awaitable[_Answer]) -> _Answer:
    """What NATS answers.

    The library waits with `asyncio.wait_for`, which on Python 3.11 forgets that its task was cancelled where the answer
    comes at the same moment; a task that is told to end once would then run on for ever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    answer = await request
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
    return answer


class Bus:
    """One connection to NATS that reconnects for ever."""

    def __init__(self, client: Client, ack_timeout_s: float) -> None:
        self._client = client
        self._ack_timeout_s = ack_timeout_s
        self._jetstream: JetStreamContext = client.jetstream(timeout=ack_timeout_s)
        self._reconnects = 0
        self._closing = False
        self._when_back: set[Callable[[], None]] = set()

    @classmethod
    async def connect(
        cls,
        url: str,
        credential_file: Path | None,
        name: str,
        *,
        ack_timeout_s: float = 5.0,
        reconnect_wait_s: float = 0.25,
    ) -> Bus:
        """Connect, waiting for the server as long as it takes.

        Args:
            name: The identity the credential was made for; replies come to an inbox of its own.
            ack_timeout_s: How long an acknowledgement or an answer may take.
            reconnect_wait_s: Between attempts to connect.
        """
        client = Client()
        bus = cls(client, ack_timeout_s)

        async def reconnected() -> None:
            log.info("nats is back", name=name)
            bus._reconnected()

        async def disconnected() -> None:
            if not bus._closing:
                log.warning("nats is away", name=name)

        async def failed(error: Exception) -> None:
            log.warning("nats error", name=name, error=_said(error))

        await client.connect(
            url,
            name=name,
            user_credentials=str(credential_file) if credential_file else None,
            inbox_prefix=inbox_prefix(name),
            max_reconnect_attempts=-1,
            # The client library types whole seconds and takes any.
            reconnect_time_wait=reconnect_wait_s,  # type: ignore[arg-type]
            ping_interval=_PING_INTERVAL_S,
            allow_reconnect=True,
            reconnected_cb=reconnected,
            disconnected_cb=disconnected,
            error_cb=failed,
        )
        return bus

    def _reconnected(self) -> None:
        self._reconnects += 1
        for notify in tuple(self._when_back):
            notify()

    @contextlib.contextmanager
    def notified_when_back(self, notify: Callable[[], None]) -> Iterator[None]:
        """Call `notify` after each reconnect, inside the block."""
        self._when_back.add(notify)
        try:
            yield
        finally:
            self._when_back.discard(notify)

    @property
    def connected(self) -> bool:
        """Whether the server is there now."""
        return bool(self._client.is_connected)

    @property
    def reconnects(self) -> int:
        """How often the connection was made anew."""
        return self._reconnects

    @property
    def client(self) -> Client:
        """For what this class does not wrap."""
        return self._client

    @property
    def jetstream(self) -> JetStreamContext:
        """For the topology and for what this class does not wrap."""
        return self._jetstream

    async def publish(self, event: Event, *, timeout_s: float | None = None) -> int:
        """Publish an event and wait for the acknowledgement; return its stream sequence.

        Raises:
            BusUnavailable: see `publish_raw`.
        """
        return await self.publish_raw(event.subject, event.data, event.headers(), timeout_s=timeout_s)

    async def publish_raw(
        self, subject: str, data: bytes, headers: Mapping[str, str], *, timeout_s: float | None = None
    ) -> int:
        """Publish and wait for the acknowledgement; return the stream sequence.

        Raises:
            BusUnavailable: away, refused, or not acknowledged in `timeout_s` (it may still have been
                taken: publish again with the same `Nats-Msg-Id`).
            StreamFull: the stream takes nothing for now.
        """
        try:
            ack = await _answered(
                self._jetstream.publish(subject, data, timeout=timeout_s or self._ack_timeout_s, headers=dict(headers))
            )
        except nats.js.errors.APIError as error:
            kind = StreamFull if error.err_code == _STORE_FAILED else BusUnavailable
            raise kind(f"NATS did not take a message on {subject}: {_said(error)}") from error
        except NATS_ERRORS as error:
            raise BusUnavailable(f"NATS did not take a message on {subject}: {_said(error)}") from error
        return ack.seq

    async def put_projection(self, bucket: str, key: str, framed: bytes) -> bool:
        """Write a framed value unless the same or a newer sequence is there; return whether it was written.

        Raises:
            BusUnavailable: away; write it again later.
        """
        sequence, _ = decode_projection(framed)
        subject = f"$KV.{bucket}.{key}"
        try:
            while True:
                revision, known_sequence = await self._bucket_entry(bucket, subject)
                if known_sequence >= sequence:
                    return False
                try:
                    await _answered(
                        self._jetstream.publish(
                            subject,
                            framed,
                            timeout=self._ack_timeout_s,
                            headers={_EXPECTED_REVISION: str(revision)},
                        )
                    )
                except nats.js.errors.APIError as error:
                    if error.err_code not in _WRONG_REVISION:
                        raise
                    continue  # another writer was faster: compare with what it wrote
                return True
        except NATS_ERRORS as error:
            raise BusUnavailable(f"NATS did not take {bucket}/{key}: {_said(error)}") from error

    async def _bucket_entry(self, bucket: str, subject: str) -> tuple[int, int]:
        """Revision and sequence of a key's value; (0, -1) when there is none."""
        try:
            entry = await _answered(self._jetstream.get_last_msg(f"KV_{bucket}", subject, direct=True))
        except nats.js.errors.NotFoundError:
            return 0, -1
        try:
            sequence, _ = decode_projection(entry.data or b"")
        except EventMalformed:  # a delete marker, or what no relay wrote
            sequence = -1
        return entry.seq or 0, sequence

    async def pull(self, stream: str, durable: str, wait_s: float = 5.0) -> PullSubscription:
        """Bind to a durable consumer that the topology made.

        Args:
            wait_s: How long a fetch waits for a first message.

        Raises:
            BusUnavailable: the connection was closed.
        """
        subscription = PullSubscription(self, stream, durable, wait_s)
        try:
            await subscription.open()
        except NATS_ERRORS as error:
            raise BusUnavailable(f"NATS did not bind {durable} on {stream}: {_said(error)}") from error
        return subscription

    async def subscribe_stream(
        self, stream: str, filter_subject: str, start_sequence: int | None
    ) -> AsyncIterator[tuple[int, Event]]:
        """Events of a stream in order, without a gap or a twin, across reconnects; ends when the caller stops.

        Args:
            start_sequence: The first stream sequence wanted; None for what comes from now on. Where the
                stream has already dropped it, the oldest one there is comes first.

        Yields:
            (stream sequence, event); the position to resume at is the sequence + 1.

        Raises:
            BusUnavailable: NATS is away at the beginning; later it is waited for.
        """
        if start_sequence is None:
            start_sequence = await self.last_sequence(stream) + 1
        retry_s = 0.0
        while True:
            reader = OrderedReader(self, stream, filter_subject, start_sequence=start_sequence)
            try:
                async with reader:
                    retry_s = 0.1
                    while True:
                        message = await reader.next()
                        if message is None:
                            continue
                        sequence = message.metadata.sequence.stream
                        start_sequence = sequence + 1
                        try:
                            event = event_from_message(message)
                        except EventMalformed as malformed:
                            log.error("event was passed over", stream=stream, error=str(malformed))
                            continue
                        yield sequence, event
            except OrderLost as lost:
                log.info("stream is read anew", stream=stream, sequence=start_sequence, why=str(lost))
            except NATS_ERRORS as error:
                if not retry_s:
                    raise BusUnavailable(f"NATS did not open {stream}: {_said(error)}") from error
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, _RETRY_S_MAX)

    async def last_sequence(self, stream: str) -> int:
        """The newest sequence of a stream; 0 when nothing was ever in it.

        Raises:
            BusUnavailable: away.
        """
        try:
            return (await _answered(self._jetstream.stream_info(stream))).state.last_seq
        except NATS_ERRORS as error:
            raise BusUnavailable(f"NATS did not describe {stream}: {_said(error)}") from error

    def watch_bucket(self, bucket: str, on_change: OnChange, *, relist_s: float = 30.0) -> BucketWatch:
        """A watch to `run`: every value now, every change, and the whole list anew each `relist_s`."""
        return BucketWatch(self, bucket, on_change, relist_s)

    async def close(self) -> None:
        """Flush and close; a server that is away is not waited for."""
        self._closing = True
        if self.connected:
            with contextlib.suppress(*NATS_ERRORS):
                await self._client.flush(timeout=2)
        await self._client.close()


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
