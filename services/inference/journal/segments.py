"""The files of a journal: one writer, numbered segments, and what must outlive them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from chassis.service import write_atomically
from chassis.telemetry.metrics import DURATION_BUCKETS_S, Histogram
from services.inference.domain.errors import JournalLocked

_COMMIT_DURATION = Histogram(
    "modelyard.journal.commit.duration",
    unit="s",
    description="One write of the usage journal with its fsync.",
    buckets=DURATION_BUCKETS_S,
)


class Segments:
    """Appends durably and deletes what is billed; used by one thread at a time.

    Args:
        found: Segments that are there and the last sequence in each, oldest first.
        segment_bytes_max: At that size the next append begins another file.
    """

    def __init__(
        self, folder: Path, journal_id: str, found: Sequence[tuple[Path, int]], segment_bytes_max: int
    ) -> None:
        self._folder = folder
        self._journal_id = journal_id
        self._complete = list(found)
        self._segment_bytes_max = segment_bytes_max
        self._number = max((int(path.stem) for path, _ in found), default=0)
        self._file_bytes = 0
        self._file_last_seq = 0
        self._is_torn = False
        self._path, self._descriptor = self._begin()
        self.size_bytes = sum(path.stat().st_size for path, _ in found)

    def append(self, content: bytes, last_seq: int) -> None:
        """Write frames; they are durable on return.

        Args:
            last_seq: No frame so far is of a later call.

        Raises:
            OSError: none of them counts; append them again.
        """
        if self._is_torn:
            self._cut()
        if self._file_bytes >= self._segment_bytes_max:
            self._end()
        self._is_torn = True
        try:
            began_s = time.monotonic()
            _write_all(self._descriptor, content)
            os.fdatasync(self._descriptor)
            _COMMIT_DURATION.record(time.monotonic() - began_s)
        except OSError:
            # Half a frame must not stand before a whole one; what cannot be cut now is cut before the next append.
            with contextlib.suppress(OSError):
                self._cut()
            raise
        self._is_torn = False
        self._file_bytes += len(content)
        self._file_last_seq = last_seq
        self.size_bytes += len(content)

    def drop(self, committed_seq: int) -> None:
        """Delete every complete segment whose calls are all billed.

        Raises:
            OSError: drop again later.
        """
        kept = [(path, last_seq) for path, last_seq in self._complete if last_seq > committed_seq]
        billed = self._complete[: len(self._complete) - len(kept)]
        if not billed:
            return
        # The sequence must outlive the files it was read from.
        write_identity(self._folder, self._journal_id, committed_seq)
        for path, _ in billed:
            with contextlib.suppress(FileNotFoundError):
                size = path.stat().st_size
                path.unlink()
                self.size_bytes -= size
        self._complete = kept

    def close(self) -> None:
        os.close(self._descriptor)

    def _begin(self) -> tuple[Path, int]:
        """The next file, named so that names sort in the order of writing."""
        path = self._folder / f"{self._number + 1:012d}.journal"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        self._number += 1
        try:
            sync_folder(self._folder)
        except OSError:
            os.close(descriptor)
            raise
        return path, descriptor

    def _end(self) -> None:
        path, descriptor = self._begin()
        self._complete.append((self._path, self._file_last_seq))
        os.close(self._descriptor)
        self._path, self._descriptor, self._file_bytes = path, descriptor, 0

    def _cut(self) -> None:
        os.ftruncate(self._descriptor, self._file_bytes)
        self._is_torn = False


def lock(folder: Path) -> TextIO:
    """Hold the folder as long as the file is open.

    Raises:
        JournalLocked: another process holds it.
    """
    file = (folder / "lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise JournalLocked(
            f"another process writes the journal in {folder}; stop it, or give this one a folder of its own"
        ) from None
    return file


def read_identity(folder: Path) -> tuple[str, int]:
    """The journal's id, made at first, and the sequence up to which it may have forgotten."""
    path = folder / "journal.json"
    if not path.exists():
        write_identity(folder, str(uuid.uuid4()), 0)
    facts = json.loads(path.read_text())
    return facts["journal_id"], facts["committed_seq"]


def write_identity(folder: Path, journal_id: str, committed_seq: int) -> None:
    """Replace the identity, durably."""
    write_atomically(folder / "journal.json", json.dumps({"journal_id": journal_id, "committed_seq": committed_seq}))


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    remaining = memoryview(content)
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]
