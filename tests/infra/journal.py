"""What an inference's journal holds on disk."""

from __future__ import annotations

import contextlib
from pathlib import Path

from modelyard.inference.v1 import journal_pb2

from services.inference.journal.frames import read_frames
from services.inference.journal.recovery import segment_paths


def frames(folder: Path) -> list[journal_pb2.JournalFrame]:
    """What stands on disk, oldest first; a segment may be deleted while it is looked for."""
    found: list[journal_pb2.JournalFrame] = []
    for path in segment_paths(folder):
        with contextlib.suppress(FileNotFoundError):
            found += [frame for _, frame in read_frames(path)]
    return found
