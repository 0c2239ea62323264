"""The usage journal: group commits on a thread of its own, one fsync for all calls that wait."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modelyard.inference.v1 import journal_pb2
from modelyard.type.v1 import usage_pb2

from chassis.telemetry import get_logger
from services.inference.domain.errors import JournalFull
from services.inference.domain.usage import Counts, Outcome
from services.inference.journal.frames import encode_frame
from services.inference.journal.recovery import recover, settle_record
from services.inference.journal.segments import Segments, lock, read_identity

log = get_logger(__name__)

# How often the thread looks for the end of a journal without calls.
_IDLE_S = 0.5


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """Sizes and intervals.

    `size_bytes_max`: on disk; at that size new calls are refused. `segment_bytes_max`: at that size a segment is
    complete and may be deleted when it is billed; at most half of the whole, or the last one could fill it for ever.
    `entries_max`: settled entries that billing has not committed, held in memory; as many are refused.
    `commit_interval_s`: longest time between two commits while calls run; what a crash may cost a stream's bill, in the
    customer's favour. `retry_s`: how long a disk that failed is left alone.
    """

    size_bytes_max: int = 256 * 1024 * 1024
    segment_bytes_max: int = 8 * 1024 * 1024
    entries_max: int = 200_000
    commit_interval_s: float = 0.05
    retry_s: float = 1.0

    def __post_init__(self) -> None:
        if 2 * self.segment_bytes_max > self.size_bytes_max:
            raise ValueError(
                f"a segment of {self.segment_bytes_max} bytes in a journal of {self.size_bytes_max}; "
                "at most half of the journal is allowed"
            )


class Entry:
    """One admitted call. `opened` is done when it may send its first byte."""

    def __init__(self, journal: Journal, record: usage_pb2.UsageRecord, opened: asyncio.Future[None]) -> None:
        self._journal = journal
        self.record = record
        self.opened = opened
        self.progressed: Counts | None = None
        self.is_settled = False

    @property
    def seq(self) -> int:
        return self.record.journal_seq

    def progress(self, delivered: Counts) -> None:
        """What the client has received by now; written with the next commit."""
        self.progressed = delivered
        self._journal._dirty[self.seq] = self

    def settle(self, outcome: Outcome, counts: Counts) -> asyncio.Future[None]:
        """End the call, once; the future is done when its last byte may leave. Needs no await to take effect."""
        if self.is_settled:
            raise RuntimeError(f"entry {self.record.id} is settled")
        self.is_settled = True
        settle_record(self.record, outcome, counts)
        return self._journal._settle(self)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Who waits for a frame: a call for its opening (no record), or a settled record for being sent."""

    done: asyncio.Future[None]
    record: usage_pb2.UsageRecord | None


class Journal:
    """One process writes one journal; the next process in the same folder goes on with it."""

    def __init__(self, folder: Path, limits: JournalLimits) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._limits = limits
        self._lock_file = lock(folder)
        try:
            self.journal_id, floor = read_identity(folder)
            found = recover(folder)
            self._segments = Segments(folder, self.journal_id, found.segments, limits.segment_bytes_max)
        except BaseException:
            self._lock_file.close()
            raise
        self._next_seq = max(found.last_seq, floor) + 1
        # Settled, durable and not committed by billing, by sequence.
        self.settled: dict[int, usage_pb2.UsageRecord] = {
            seq: record for seq, record in sorted(found.settled.items()) if seq > floor
        }
        # Sequences in `settled` that nobody took for sending yet.
        self.unsent: deque[int] = deque(self.settled)
        self._interrupted = found.interrupted
        self._committed_seq = self._dropped_seq = floor
        self._open: dict[int, Entry] = {}
        self._dirty: dict[int, Entry] = {}
        # The condition guards what follows; all else belongs to the loop, or to the thread alone.
        self._condition = threading.Condition()
        self._buffer: list[bytes] = []
        self._waiting: list[_Waiting] = []
        self._is_urgent = False
        self._is_idle = True
        self._stopping = threading.Event()
        self._broken = ""
        self._is_over = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ended: asyncio.Future[None] | None = None
        self.settled_signal = asyncio.Event()
        self._open_changed = asyncio.Event()
        self.opened_count = 0
        self.recovered_count = len(found.interrupted)
        self.newest_occur_time = found.newest_occur_time

    def start(self) -> None:
        """Begin committing; what recovery settled becomes durable first."""
        self._loop = asyncio.get_running_loop()
        self._ended = self._future()
        if self._interrupted:
            log.warning("calls were open when the journal's last process ended", count=self.recovered_count)
        for record in self._interrupted:
            self._append(journal_pb2.JournalFrame(settled=record), _Waiting(self._future(), record))
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    async def watch(self) -> None:
        """Wait for the end of the journal.

        Raises:
            Exception: what ended it, if that was not `close`. No call can be recorded any more.
        """
        assert self._ended is not None, "the journal is not started"  # noqa: S101 - a bug, not an input
        await asyncio.shield(self._ended)

    def open(self, record: usage_pb2.UsageRecord, *, urgent: bool = True) -> Entry:
        """Admit a call: give it the next sequence and write it with the next commit.

        Args:
            urgent: Whether a commit begins at once. A call whose first bytes are its last ones needs none of its own:
                what it waits for is its settlement, and a frame is never durable before one that was written earlier.

        Raises:
            JournalFull: usage cannot be recorded now; the message says why and the way out.
        """
        self.check_open()
        record.journal_id = self.journal_id
        record.journal_seq = self._next_seq
        self._next_seq += 1
        self.opened_count += 1
        entry = Entry(self, record, self._future())
        self._open[record.journal_seq] = entry
        self._append(journal_pb2.JournalFrame(opened=record), _Waiting(entry.opened, None), urgent=urgent)
        return entry

    def check_open(self) -> None:
        """Refuse new work when it could not be recorded.

        Raises:
            JournalFull: naming the value, the limit and the way out.
        """
        if self._broken:
            raise self._full(self._broken)
        if self.size_bytes >= self._limits.size_bytes_max or len(self.settled) >= self._limits.entries_max:
            raise JournalFull(
                f"the usage journal holds {len(self.settled)} entries in {self.size_bytes} bytes that billing has not committed; "
                f"{self._limits.entries_max} and {self._limits.size_bytes_max} are the limits: bring NATS and billing back",
                retry_after_s=5.0,
            )

    @property
    def refusing(self) -> str:
        """Why new work is refused; empty while it is taken."""
        try:
            self.check_open()
        except JournalFull as full:
            return full.message
        return ""

    @property
    def running_count(self) -> int:
        return len(self._open)

    @property
    def committed_seq(self) -> int:
        return self._committed_seq

    @property
    def last_seq(self) -> int:
        return self._next_seq - 1

    @property
    def size_bytes(self) -> int:
        return self._segments.size_bytes

    @property
    def size_bytes_max(self) -> int:
        return self._limits.size_bytes_max

    async def all_settled(self) -> None:
        """Wait until no call is open."""
        while self._open:
            self._open_changed.clear()
            await self._open_changed.wait()

    def forget_committed(self, committed_seq: int) -> None:
        """Billing has committed everything up to this sequence: whole segments below it may go."""
        if committed_seq <= self._committed_seq:
            return
        for seq in range(self._committed_seq + 1, min(committed_seq + 1, self._next_seq)):
            self.settled.pop(seq, None)
        # A folder restored from an old copy must not give a sequence away again: it would count as billed.
        self._next_seq = max(self._next_seq, committed_seq + 1)
        with self._condition:
            self._committed_seq = committed_seq
            self._condition.notify()

    def _settle(self, entry: Entry) -> asyncio.Future[None]:
        durable = self._future()
        self._open.pop(entry.seq, None)
        self._dirty.pop(entry.seq, None)
        self._open_changed.set()
        self._append(journal_pb2.JournalFrame(settled=entry.record), _Waiting(durable, entry.record))
        return durable

    def _future(self) -> asyncio.Future[None]:
        assert self._loop is not None, "the journal is not started"  # noqa: S101 - a bug, not an input
        return self._loop.create_future()

    def _append(self, frame: journal_pb2.JournalFrame, waiting: _Waiting, *, urgent: bool = True) -> None:
        encoded = encode_frame(frame)
        with self._condition:
            if not self._is_over:
                self._buffer.append(encoded)
                self._waiting.append(waiting)
                self._is_urgent = self._is_urgent or urgent
                if urgent or self._is_idle:
                    self._condition.notify()
                return
        self._answer([waiting], self._full(self._broken or "it is closed"))

    def _run(self) -> None:
        """The thread."""
        error: Exception | None = None
        try:
            while self._commit_once():
                pass
        except Exception as caught:  # noqa: BLE001 - `watch` raises it
            error = caught
            self._broken = f"{type(caught).__name__}: {caught}"
        with self._condition:
            self._is_over = True
            waiting, self._waiting = self._waiting, []
        self._answer(waiting, self._full(self._broken or "it is closed"))
        self._on_loop(lambda: _resolve(self._ended, error))

    def _commit_once(self) -> bool:
        """Write and fsync what is there, with the counts of open streams; whether there may be more to come."""
        with self._condition:
            if not self._is_urgent and not self._stopping.is_set() and self._committed_seq == self._dropped_seq:
                woken = self._condition.wait(_IDLE_S if self._is_idle else self._limits.commit_interval_s)
                self._is_idle = not woken and not self._open
            self._is_urgent = False
            for seq in list(self._dirty):
                entry = self._dirty.pop(seq, None)
                if entry is not None and entry.progressed is not None:
                    self._buffer.append(_progress_frame(seq, entry.progressed))
            frames, waiting = self._buffer, self._waiting
            self._buffer, self._waiting = [], []
            last_seq, committed_seq, stopping = self._next_seq - 1, self._committed_seq, self._stopping.is_set()
        self._drop(committed_seq)
        if not frames:
            return not stopping
        try:
            self._segments.append(b"".join(frames), last_seq)
        except OSError as error:
            self._keep_for_retry(frames, waiting, error)
            return not stopping
        except BaseException:
            with self._condition:
                self._waiting[:0] = waiting
            raise
        self._broken = ""
        self._answer(waiting, None)
        return True

    def _drop(self, committed_seq: int) -> None:
        if committed_seq == self._dropped_seq:
            return
        self._dropped_seq = committed_seq
        try:
            self._segments.drop(committed_seq)
        except OSError as error:
            # They go with the next ones; commits do not wait for that.
            log.error("billed segments cannot be deleted", error=str(error))

    def _keep_for_retry(self, frames: list[bytes], waiting: list[_Waiting], error: OSError) -> None:
        """Nothing is lost: frames stay in order and are written when the disk takes them again."""
        self._broken = str(error)
        log.error("the usage journal cannot be written", error=str(error))
        with self._condition:
            self._buffer[:0] = frames
            self._waiting[:0] = [one for one in waiting if one.record is not None]
            self._is_urgent = True
        self._answer([one for one in waiting if one.record is None], self._full(str(error)))
        self._stopping.wait(self._limits.retry_s)

    def _full(self, why: str) -> JournalFull:
        return JournalFull(
            f"the usage journal cannot be written ({why}); free or mend its disk: {self._folder}",
            retry_after_s=self._limits.retry_s,
        )

    def _answer(self, waiting: list[_Waiting], error: Exception | None) -> None:
        def resolve() -> None:
            for one in waiting:
                # The record is sent whether or not anybody still waits.
                if error is None and one.record is not None:
                    self.settled[one.record.journal_seq] = one.record
                    self.unsent.append(one.record.journal_seq)
                    self.settled_signal.set()
                _resolve(one.done, error)

        if waiting:
            self._on_loop(resolve)

    def _on_loop(self, action: Callable[[], None]) -> None:
        assert self._loop is not None  # noqa: S101 - set by start
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(action)

    def close(self) -> None:
        """Commit what is there and end the thread; open calls are settled by the next process."""
        self._stopping.set()
        with self._condition:
            self._condition.notify()
        if self._thread is not None:
            self._thread.join()
        self._segments.close()
        self._lock_file.close()


def _resolve(done: asyncio.Future[None] | None, error: Exception | None) -> None:
    if done is None or done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
        # A call that ended before its opening failed does not look at it, and asyncio must not complain of that.
        done.exception()


def _progress_frame(seq: int, counts: Counts) -> bytes:
    progress = journal_pb2.JournalProgress(
        journal_seq=seq,
        input_tokens=counts.input_tokens,
        output_tokens=counts.output_tokens,
        audio_milliseconds=counts.audio_milliseconds,
        images=counts.images,
    )
    return encode_frame(journal_pb2.JournalFrame(progress=progress))
