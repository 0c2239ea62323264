"""NATS: JetStream publishing with acknowledgement, pull consumers, ordered reads and watched buckets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from time import monotonic

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from chassis.errors import Code, Problem
from chassis.events import Event, decode_projection, event_from_message
from chassis.telemetry import get_logger

log = get_logger(__name__)

OnChange = Callable[[str, bytes | None, int], None]
_AWAY = (
    nats.errors.Error,
    nats.js.errors.Error,
    TimeoutError,
    ConnectionError,
)


class BusUnavailable(Problem):
    """NATS is away or did not acknowledge in time; nothing is known to be taken."""

    code = Code.UNAVAILABLE
    reason = "BUS_UNAVAILABLE"


class Bus:
    """One connection to NATS that reconnects for ever."""

    def __init__(self, client: Client, ack_timeout_s: float) -> None:
        self._client = client
        self._ack_timeout_s = ack_timeout_s
        self._jetstream: JetStreamContext = client.jetstream(timeout=ack_timeout_s)
        self._reconnects = 0

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

        Replies come to an inbox prefix of this identity's own, so that no other identity may read them.
        """
        client = Client()
        bus = cls(client, ack_timeout_s)

        async def reconnected() -> None:
            bus._reconnects += 1
            log.info("nats is back", name=name)

        async def disconnected() -> None:
            log.warning("nats is away", name=name)

        async def failed(error: Exception) -> None:
            log.warning("nats error", name=name, error=str(error))

        options: dict[str, object] = {"user_credentials": str(credential_file)} if credential_file else {}
        await client.connect(
            url,
            name=name,
            inbox_prefix=f"_INBOX_{name}",
            max_reconnect_attempts=-1,
            reconnect_time_wait=reconnect_wait_s,
            allow_reconnect=True,
            reconnected_cb=reconnected,
            disconnected_cb=disconnected,
            error_cb=failed,
            **options,
        )
        return bus

    @property
    def connected(self) -> bool:
        return self._client.is_connected

    @property
    def reconnects(self) -> int:
        """How often the connection was made anew; a watcher lists again when it changes."""
        return self._reconnects

    @property
    def jetstream(self) -> JetStreamContext:
        """For the topology and for what this class does not wrap."""
        return self._jetstream

    async def publish(self, event: Event) -> int:
        """Publish an event; return its stream sequence."""
        return await self.publish_raw(event.subject, event.data, event.headers())

    async def publish_raw(self, subject: str, data: bytes, headers: Mapping[str, str]) -> int:
        """Publish and wait for the acknowledgement.

        Raises:
            BusUnavailable: away, or not acknowledged in time (it may still have been taken: publish the same id again).
        """
        try:
            ack = await self._jetstream.publish(
                subject, data, timeout=self._ack_timeout_s, headers=dict(headers)
            )
        except _AWAY as error:
            raise BusUnavailable(f"NATS did not take a message on {subject}: {_said(error)}") from error
        return ack.seq

    async def put_projection(self, bucket: str, key: str, framed: bytes) -> bool:
        """Write a framed value unless a newer sequence is there; return whether it was written.

        Raises:
            BusUnavailable: away; write it again later.
        """
        sequence, _ = decode_projection(framed)
        try:
            store = await self._jetstream.key_value(bucket)
            while True:
                try:
                    entry = await store.get(key)
                except nats.js.errors.KeyNotFoundError:
                    revision: int | None = None
                else:
                    revision = entry.revision
                    if decode_projection(entry.value or b"")[0] >= sequence:
                        return False
                try:
                    await store.update(key, framed, last=revision or 0)
                    return True
                except nats.js.errors.KeyWrongLastSequenceError:
                    continue
        except _AWAY as error:
            raise BusUnavailable(f"NATS did not take {bucket}/{key}: {_said(error)}") from error

    async def pull(self, stream: str, durable: str, inactive_pull_s: float = 5.0) -> PullSubscription:
        """Bind to a durable consumer that the topology made."""
        try:
            subscription = await self._jetstream.pull_subscribe_bind(durable=durable, stream=stream)
        except _AWAY as error:
            raise BusUnavailable(f"NATS has no consumer {durable} on {stream}: {_said(error)}") from error
        return PullSubscription(subscription, inactive_pull_s)

    async def subscribe_stream(
        self, stream: str, filter_subject: str, start_sequence: int | None
    ) -> AsyncIterator[tuple[int, Event]]:
        """Events of a stream in order, from a sequence on, or from now on; (stream sequence, event)."""
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE
            if start_sequence is not None
            else DeliverPolicy.NEW,
            opt_start_seq=start_sequence,
        )
        try:
            subscription = await self._jetstream.subscribe(
                filter_subject, stream=stream, ordered_consumer=True, config=config
            )
        except _AWAY as error:
            raise BusUnavailable(f"NATS did not open {stream}: {_said(error)}") from error
        try:
            while True:
                try:
                    message = await subscription.next_msg(timeout=1.0)
                except TimeoutError:
                    continue
                yield (
                    message.metadata.sequence.stream,
                    event_from_message(message.subject, message.headers, message.data),
                )
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def last_sequence(self, stream: str) -> int:
        """The newest sequence of a stream; 0 when it is empty."""
        try:
            return (await self._jetstream.stream_info(stream)).state.last_seq
        except _AWAY as error:
            raise BusUnavailable(f"NATS did not describe {stream}: {_said(error)}") from error

    def watch_bucket(self, bucket: str, on_change: OnChange, *, relist_s: float = 30.0) -> BucketWatch:
        """A watch that is ready to run: every value now, every change, and the whole list anew every `relist_s`."""
        return BucketWatch(self, bucket, on_change, relist_s)

    async def close(self) -> None:
        """Flush and close; a server that is away is not waited for."""
        with contextlib.suppress(*_AWAY):
            await asyncio.wait_for(
                self._client.drain(), timeout=2.0
            ) if self.connected else await self._client.close()


class PullSubscription:
    """Fetches batches from one durable consumer."""

    def __init__(self, subscription: JetStreamContext.PullSubscription, wait_s: float) -> None:
        self._subscription = subscription
        self._wait_s = wait_s

    async def fetch(self, batch_max: int) -> list[Msg]:
        """Up to `batch_max` messages; empty when none came in time.

        Raises:
            BusUnavailable: NATS is away.
        """
        try:
            return await self._subscription.fetch(batch_max, timeout=self._wait_s)
        except TimeoutError:
            return []
        except _AWAY as error:
            raise BusUnavailable(f"NATS did not deliver: {_said(error)}") from error


class BucketWatch:
    """Keeps a copy of a bucket current and knows how old it may be."""

    def __init__(self, bus: Bus, bucket: str, on_change: OnChange, relist_s: float) -> None:
        self._bus = bus
        self._bucket = bucket
        self._on_change = on_change
        self._relist_s = relist_s
        self._sequences: dict[str, int] = {}
        self._listed_at: float | None = None
        self.listed = asyncio.Event()

    @property
    def staleness_s(self) -> float:
        """Seconds since the copy was last known to be current; infinite before the first list."""
        if self._listed_at is None:
            return float("inf")
        return monotonic() - self._listed_at

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            try:
                await self._watch_once()
            except (Problem, *_AWAY) as error:
                log.warning("bucket watch waits for nats", bucket=self._bucket, error=str(error))
                await asyncio.sleep(0.5)

    async def _watch_once(self) -> None:
        """List everything, then follow changes until it is time to list anew or the connection was made anew."""
        store = await self._bus.jetstream.key_value(self._bucket)
        reconnects = self._bus.reconnects
        watcher = await store.watchall()
        listing: set[str] | None = set()
        relist_at = monotonic() + self._relist_s
        try:
            while True:
                try:
                    entry = await watcher.updates(timeout=0.5)
                except TimeoutError:
                    if self._bus.reconnects != reconnects or not self._bus.connected:
                        return
                    if listing is None:
                        self._listed_at = monotonic()
                    if monotonic() >= relist_at:
                        return
                    continue
                if entry is None:
                    if listing is not None:
                        self._forget_missing(listing)
                        listing = None
                        self._listed_at = monotonic()
                        self.listed.set()
                    continue
                if listing is not None:
                    listing.add(entry.key)
                self._apply(entry.key, entry.value, deleted=bool(entry.operation))
                if self._bus.reconnects != reconnects:
                    return
        finally:
            with contextlib.suppress(*_AWAY):
                await watcher.stop()

    def _apply(self, key: str, framed: bytes | None, *, deleted: bool) -> None:
        if deleted or framed is None:
            self._on_change(key, None, self._sequences.pop(key, 0))
            return
        sequence, value = decode_projection(framed)
        if sequence <= self._sequences.get(key, -1):
            return
        self._sequences[key] = sequence
        self._on_change(key, value or None, sequence)

    def _forget_missing(self, listed: set[str]) -> None:
        for key in self._sequences.keys() - listed:
            self._on_change(key, None, self._sequences.pop(key))


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
