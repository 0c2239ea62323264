"""Reading streams in order through short-lived consumers, and keeping copies of buckets current."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self

import nats.errors
import nats.js.errors
from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from chassis.errors import Problem
from chassis.events import decode_projection
from chassis.ids import new_uid
from chassis.telemetry import get_logger

if TYPE_CHECKING:
    from chassis.bus import Bus

log = get_logger(__name__)

# (key, value or None when it is gone, sequence)
OnChange = Callable[[str, bytes | None, int], None]

# What a connection raises that is away, slow or refused.
NATS_ERRORS = (nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError)
_HEARTBEAT_S = 2.0
_SILENCE_S_MAX = 3 * _HEARTBEAT_S
_INACTIVE_S = 30.0
_RETRY_S = 0.5


class OrderLost(Exception):
    """A message was missed, or the server fell silent: read on through a new consumer."""


class OrderedReader:
    """One ephemeral consumer, read inside an `async with` block.

    It sees each message once and in order, or raises `OrderLost`. The server sends a heartbeat while there
    is nothing else to send, and pauses while the reader is slow (flow control).

    Args:
        start_sequence: The first stream sequence wanted; None for the newest message of each subject and
            what follows.
    """

    def __init__(self, bus: Bus, stream: str, filter_subject: str, *, start_sequence: int | None) -> None:
        self._bus = bus
        self._stream = stream
        self._filter_subject = filter_subject
        self._start_sequence = start_sequence
        self._name = f"ordered-{new_uid()}"
        self._queue: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._received = 0
        self._open = contextlib.AsyncExitStack()
        self.pending = 0  # messages there were when it was opened

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as opening:
            opening.enter_context(self._bus.notified_when_back(lambda: self._queue.put_nowait(None)))
            inbox = self._bus.client.new_inbox()
            subscription = await self._bus.client.subscribe(inbox, cb=self._queue.put)
            opening.push_async_callback(_quietly, subscription.unsubscribe)
            by_sequence = self._start_sequence is not None
            info = await self._bus.jetstream.add_consumer(
                self._stream,
                ConsumerConfig(
                    name=self._name,
                    deliver_subject=inbox,
                    filter_subject=self._filter_subject,
                    deliver_policy=DeliverPolicy.BY_START_SEQUENCE if by_sequence else DeliverPolicy.LAST_PER_SUBJECT,
                    opt_start_seq=self._start_sequence,
                    ack_policy=AckPolicy.NONE,
                    max_deliver=1,
                    flow_control=True,
                    idle_heartbeat=_HEARTBEAT_S,
                    inactive_threshold=_INACTIVE_S,
                    mem_storage=True,
                    num_replicas=1,
                ),
            )
            opening.push_async_callback(_quietly, lambda: self._bus.jetstream.delete_consumer(self._stream, self._name))
            self.pending = info.num_pending or 0
            self._open = opening.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def next(self) -> Msg | None:
        """The next message, or None for a sign of life without one.

        Raises:
            OrderLost: a gap, a reconnect, or no sign of life in three heartbeats.
        """
        try:
            async with asyncio.timeout(_SILENCE_S_MAX):
                message = await self._queue.get()
        except TimeoutError as err:
            raise OrderLost(f"no heartbeat in {_SILENCE_S_MAX} s") from err
        if message is None:
            raise OrderLost("the connection was made anew")
        headers = message.headers or {}
        if "Status" in headers:
            await self._answer_status(message, headers)
            return None
        self._received += 1
        if message.metadata.sequence.consumer != self._received:
            raise OrderLost(
                f"message {self._received} of the consumer was missed; {message.metadata.sequence.consumer} came"
            )
        return message

    async def _answer_status(self, message: Msg, headers: dict[str, str]) -> None:
        # Flow control waits for an answer; a heartbeat of a stalled consumer says where it waits.
        if answer := message.reply or headers.get("Nats-Consumer-Stalled"):
            await self._bus.client.publish(answer)
        last = headers.get("Nats-Last-Consumer")
        if last is not None and int(last) != self._received:
            raise OrderLost(f"{self._received} messages came where the consumer sent {last}")


class BucketWatch:
    """Keeps a copy of a bucket current and knows how old it may be."""

    def __init__(self, bus: Bus, bucket: str, on_change: OnChange, relist_s: float) -> None:
        self._bus = bus
        self._bucket = bucket
        self._on_change = on_change
        self._relist_s = relist_s
        self._sequences: dict[str, int] = {}
        self._read_through = 0  # sequence in the bucket's stream
        self._progress = asyncio.Event()
        self._current_at: float | None = None
        self.listed = asyncio.Event()  # set once the whole bucket was read for the first time

    @property
    def staleness_s(self) -> float:
        """Seconds since the copy was last known to be current; infinite before the first list.

        With NATS there it stays below its heartbeat, 2 s.
        """
        if self._current_at is None:
            return float("inf")
        return monotonic() - self._current_at

    async def catch_up(self, *, timeout_s: float) -> None:
        """Wait until the copy has what the bucket held when this was called, or the time is over, or NATS does not say."""
        with contextlib.suppress(TimeoutError, *NATS_ERRORS):
            async with asyncio.timeout(timeout_s):
                newest = await self._last_sequence()
                while self._read_through < newest:
                    await self._progress.wait()

    async def _last_sequence(self) -> int:
        """Of the bucket's stream; its message may be gone."""
        return (await self._bus.jetstream.stream_info(f"KV_{self._bucket}")).state.last_seq

    async def run(self) -> None:
        """Watch for ever; while NATS is away the copy stays as it was."""
        while True:
            try:
                await self._watch_once()
            except OrderLost as lost:
                log.info("bucket is listed anew", bucket=self._bucket, why=str(lost))
            except NATS_ERRORS as error:
                log.warning("bucket watch waits for nats", bucket=self._bucket, error=str(error))
                await asyncio.sleep(_RETRY_S)

    async def _watch_once(self) -> None:
        """List everything, then follow changes until it is time to list anew."""
        prefix = f"$KV.{self._bucket}."
        relist_at = monotonic() + self._relist_s
        before = await self._last_sequence()
        async with OrderedReader(self._bus, f"KV_{self._bucket}", f"{prefix}>", start_sequence=None) as reader:
            listed: set[str] = set()
            listing = reader.pending > 0
            if not listing:
                self._end_list(listed, before)
            while monotonic() < relist_at:
                message = await reader.next()
                if message is not None:
                    key = message.subject.removeprefix(prefix)
                    self._apply(key, message)
                    self._advance(message.metadata.sequence.stream)
                    listed.add(key)
                    if listing and message.metadata.num_pending == 0:
                        listing = False
                        self._end_list(listed, before)
                if not listing:
                    self._current_at = monotonic()

    def _advance(self, sequence: int) -> None:
        self._read_through = max(self._read_through, sequence)
        self._progress.set()
        self._progress = asyncio.Event()

    def _end_list(self, listed: set[str], before: int) -> None:
        """`before`: the stream's last sequence when the list began; what is not listed up to there is gone."""
        self._advance(before)
        for key in self._sequences.keys() - listed:
            self._tell(key, None, self._sequences.pop(key))
        self._current_at = monotonic()
        self.listed.set()

    def _apply(self, key: str, message: Msg) -> None:
        if "KV-Operation" in (message.headers or {}):
            self._tell(key, None, self._sequences.pop(key, 0))
            return
        try:
            sequence, value = decode_projection(message.data)
        except Problem as malformed:
            log.error("bucket value was passed over", bucket=self._bucket, key=key, error=str(malformed))
            return
        if sequence > self._sequences.get(key, -1):
            self._sequences[key] = sequence
            self._tell(key, value or None, sequence)

    def _tell(self, key: str, value: bytes | None, sequence: int) -> None:
        try:
            self._on_change(key, value, sequence)
        except (Problem, DecodeError) as error:
            # One value nobody can read must not stop the others from changing.
            log.error("bucket value was passed over", bucket=self._bucket, key=key, error=str(error))


async def _quietly(action: Callable[[], object]) -> None:
    """Tidy up on a server that may be away; it forgets idle consumers by itself."""
    with contextlib.suppress(*NATS_ERRORS):
        await action()  # type: ignore[misc]
