"""The usage journal: group commits on a thread of its own, one fsync for all calls that wait."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from modelyard.inference.v1 import journal_pb2
from modelyard.type.v1 import usage_pb2

from chassis.service import write_atomically
from chassis.telemetry import get_logger
from services.inference.domain.errors import JournalFull, JournalLocked
from services.inference.domain.usage import Counts, Outcome
from services.inference.journal.frames import encode_frame
from services.inference.journal.recovery import recover, settled_record

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """Sizes and intervals.

    `size_bytes_max`: on disk; at that size new calls are refused. `entries_max`: settled entries that billing has not
    committed, held in memory; as many are refused. `commit_interval_s`: longest time between two commits while streams
    run; what a crash may cost a stream's bill, in the customer's favour.
    """

    size_bytes_max: int = 256 * 1024 * 1024
    segment_bytes_max: int = 8 * 1024 * 1024
    entries_max: int = 200_000
    commit_interval_s: float = 0.05
    retry_s: float = 1.0


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
        return self._journal._settle(self, settled_record(self.record, outcome, counts))


class Journal:
    """One process writes one journal; the next process in the same folder goes on with it."""

    def __init__(self, folder: Path, limits: JournalLimits) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._limits = limits
        self._lock_file = _lock(folder)
        self.journal_id, floor = _identity(folder)
        found = recover(folder)
        self._next_seq = max(found.last_seq, floor) + 1
        self._segments = found.segments
        # Settled and not committed by billing, by sequence: what the publisher sends.
        self.settled: dict[int, usage_pb2.UsageRecord] = found.settled
        self._committed_seq = floor
        self._size = sum(path.stat().st_size for path, _ in self._segments)
        self._segment_number = max((int(path.stem) for path, _ in self._segments), default=0)
        self._path, self._file = self._new_segment()
        self._durable_bytes = 0
        self._open: dict[int, Entry] = {}
        self._dirty: dict[int, Entry] = {}
        self._buffer: list[bytes] = []
        self._waiting: list[tuple[asyncio.Future[None], bool]] = []
        self._condition = threading.Condition()
        self._stopping = False
        self._broken = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.settled_signal = asyncio.Event()
        self.opened_count = 0
        for record in found.interrupted:
            self.settled[record.journal_seq] = record
            self._buffer.append(encode_frame(journal_pb2.JournalFrame(settled=record)))
        self.recovered_count = len(found.interrupted)

    def start(self) -> None:
        """Begin committing; what recovery settled becomes durable first."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._commit_forever, name="journal", daemon=True)
        self._thread.start()

    def open(self, record: usage_pb2.UsageRecord) -> Entry:
        """Admit a call: give it the next sequence and write it with the next commit.

        Raises:
            JournalFull: usage cannot be recorded now; the message says why and the way out.
        """
        self.check_open()
        assert self._loop is not None, "the journal is not started"  # noqa: S101 - a bug, not an input
        record.journal_id = self.journal_id
        record.journal_seq = self._next_seq
        self._next_seq += 1
        self.opened_count += 1
        entry = Entry(self, record, self._loop.create_future())
        self._open[record.journal_seq] = entry
        self._append(encode_frame(journal_pb2.JournalFrame(opened=record)), entry.opened, may_fail=True)
        return entry

    def check_open(self) -> None:
        """Refuse new work when it could not be recorded.

        Raises:
            JournalFull: naming the value, the limit and the way out.
        """
        if self._broken:
            raise JournalFull(
                f"the usage journal cannot be written ({self._broken}); free or mend its disk: {self._folder}",
                retry_after_s=self._limits.retry_s,
            )
        if self._size >= self._limits.size_bytes_max or len(self.settled) >= self._limits.entries_max:
            raise JournalFull(
                f"the usage journal holds {len(self.settled)} entries in {self._size} bytes that billing has not committed; "
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
        return self._size

    @property
    def size_bytes_max(self) -> int:
        return self._limits.size_bytes_max

    def forget_committed(self, committed_seq: int) -> None:
        """Billing has committed everything up to this sequence: whole segments below it may go."""
        if committed_seq <= self._committed_seq:
            return
        for seq in range(self._committed_seq + 1, committed_seq + 1):
            self.settled.pop(seq, None)
        self._committed_seq = committed_seq
        with self._condition:
            droppable = [path for path, last_seq in self._segments if last_seq <= committed_seq]
            self._segments = [(path, last_seq) for path, last_seq in self._segments if last_seq > committed_seq]
        if not droppable:
            return
        # The sequence must outlive the files it was read from.
        _write_identity(self._folder, self.journal_id, committed_seq)
        for path in droppable:
            with contextlib.suppress(FileNotFoundError):
                size = path.stat().st_size
                path.unlink()
                with self._condition:
                    self._size -= size

    def _settle(self, entry: Entry, record: usage_pb2.UsageRecord) -> asyncio.Future[None]:
        assert self._loop is not None, "the journal is not started"  # noqa: S101 - a bug, not an input
        durable: asyncio.Future[None] = self._loop.create_future()
        self._open.pop(entry.seq, None)
        self._dirty.pop(entry.seq, None)

        def announce(done: asyncio.Future[None]) -> None:
            if not done.cancelled() and done.exception() is None:
                self.settled[record.journal_seq] = record
                self.settled_signal.set()

        durable.add_done_callback(announce)
        self._append(encode_frame(journal_pb2.JournalFrame(settled=record)), durable, may_fail=False)
        return durable

    def _append(self, frame: bytes, done: asyncio.Future[None], *, may_fail: bool) -> None:
        with self._condition:
            self._buffer.append(frame)
            self._waiting.append((done, may_fail))
            self._condition.notify()

    def _commit_forever(self) -> None:
        """The thread: write and fsync what is there, then what came meanwhile; counts of open streams each interval."""
        while True:
            with self._condition:
                if not self._buffer and not self._stopping:
                    self._condition.wait(self._limits.commit_interval_s if self._dirty else 0.5)
                for seq in list(self._dirty):
                    entry = self._dirty.pop(seq, None)
                    if entry is not None and entry.progressed is not None:
                        self._buffer.append(_progress_frame(seq, entry.progressed))
                frames, waiting = self._buffer, self._waiting
                if not frames:
                    if self._stopping:
                        return
                    continue
                self._buffer, self._waiting = [], []
            try:
                self._write(b"".join(frames))
            except OSError as error:
                self._keep_for_retry(frames, waiting, error)
                continue
            self._broken = ""
            self._answer(waiting, None)

    def _write(self, content: bytes) -> None:
        try:
            self._file.write(content)
            self._file.flush()
            os.fdatasync(self._file.fileno())
        except OSError:
            # Half a frame must not stand before the whole one that is written later.
            with contextlib.suppress(OSError):
                self._file.truncate(self._durable_bytes)
                self._file.seek(self._durable_bytes)
            raise
        self._durable_bytes += len(content)
        with self._condition:
            self._size += len(content)
        if self._durable_bytes >= self._limits.segment_bytes_max:
            self._file.close()
            with self._condition:
                # Every frame in it is of a call that had its sequence by now.
                self._segments.append((self._path, self._next_seq - 1))
            self._path, self._file = self._new_segment()
            self._durable_bytes = 0

    def _keep_for_retry(
        self, frames: list[bytes], waiting: list[tuple[asyncio.Future[None], bool]], error: OSError
    ) -> None:
        """Nothing is lost: frames stay in order and are written when the disk takes them again."""
        self._broken = str(error)
        log.error("the usage journal cannot be written", error=str(error))
        with self._condition:
            self._buffer[:0] = frames
            self._waiting[:0] = [(done, may_fail) for done, may_fail in waiting if not may_fail]
            stopping = self._stopping
        failed = JournalFull(f"the usage journal cannot be written ({error}); free or mend its disk: {self._folder}")
        self._answer([(done, may_fail) for done, may_fail in waiting if may_fail], failed)
        threading.Event().wait(0.0 if stopping else self._limits.retry_s)
        if stopping:
            with self._condition:
                self._buffer.clear()

    def _answer(self, waiting: Sequence[tuple[asyncio.Future[None], bool]], error: Exception | None) -> None:
        def resolve() -> None:
            for done, _ in waiting:
                if done.done():
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)

        if waiting and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(resolve)

    def _new_segment(self) -> tuple[Path, BinaryIO]:
        """The next file, named so that names sort in the order of writing."""
        self._segment_number += 1
        path = self._folder / f"{self._segment_number:012d}.journal"
        file = os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600), "wb")
        folder = os.open(self._folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        return path, file

    def close(self) -> None:
        """Commit what is there and end the thread; open calls are settled by the next process."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join()
        self._file.close()
        self._lock_file.close()


def _progress_frame(seq: int, counts: Counts) -> bytes:
    progress = journal_pb2.JournalProgress(
        journal_seq=seq, input_tokens=counts.input_tokens, output_tokens=counts.output_tokens
    )
    return encode_frame(journal_pb2.JournalFrame(progress=progress))


def _lock(folder: Path) -> TextIO:
    file = (folder / "lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise JournalLocked(
            f"another process writes the journal in {folder}; stop it, or give this one a folder of its own"
        ) from None
    return file


def _identity(folder: Path) -> tuple[str, int]:
    """The journal's id and the sequence up to which it may have forgotten."""
    path = folder / "journal.json"
    if not path.exists():
        _write_identity(folder, str(uuid.uuid4()), 0)
    facts = json.loads(path.read_text())
    return facts["journal_id"], facts["committed_seq"]


def _write_identity(folder: Path, journal_id: str, committed_seq: int) -> None:
    write_atomically(folder / "journal.json", json.dumps({"journal_id": journal_id, "committed_seq": committed_seq}))
