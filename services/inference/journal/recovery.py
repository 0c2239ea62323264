"""What a journal's folder holds after whatever happened to its last writer."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from modelyard.type.v1 import money_pb2, usage_pb2

from chassis.telemetry import get_logger
from services.inference.domain.errors import JournalCorrupt
from services.inference.domain.usage import Counts, Outcome
from services.inference.journal.frames import read_frames

log = get_logger(__name__)


@dataclass
class Recovered:
    """The state of a journal: settled records by sequence, calls that were open, and each segment's last sequence."""

    settled: dict[int, usage_pb2.UsageRecord] = field(default_factory=dict)
    interrupted: list[usage_pb2.UsageRecord] = field(default_factory=list)
    segments: list[tuple[Path, int]] = field(default_factory=list)
    last_seq: int = 0

    @property
    def newest_occur_time(self) -> datetime | None:
        """When the newest call that is still here was admitted."""
        records = [*self.settled.values(), *self.interrupted]
        return max((record.occur_time.ToDatetime(UTC) for record in records), default=None)


def segment_paths(folder: Path) -> list[Path]:
    """Segments, oldest first."""
    return sorted(folder.glob("*.journal"))


def recover(folder: Path) -> Recovered:
    """Read every segment; cut a torn end off the last one.

    A call that was opened and not settled is returned as interrupted, at its last durable counts.

    Raises:
        JournalCorrupt: a damaged frame anywhere but at the end of the last segment.
    """
    found = Recovered()
    opened: dict[int, usage_pb2.UsageRecord] = {}
    counts: dict[int, Counts] = {}
    paths = segment_paths(folder)
    for path in paths:
        good = 0
        for end, frame in read_frames(path):
            good = end
            step = frame.WhichOneof("step")
            if step == "opened":
                if frame.opened.journal_seq not in found.settled:
                    opened[frame.opened.journal_seq] = frame.opened
                found.last_seq = max(found.last_seq, frame.opened.journal_seq)
            elif step == "progress":
                progress = frame.progress
                counts[progress.journal_seq] = Counts(
                    progress.input_tokens, progress.output_tokens, progress.audio_milliseconds, progress.images
                )
            elif step == "settled":
                found.settled[frame.settled.journal_seq] = frame.settled
                opened.pop(frame.settled.journal_seq, None)
        if good < path.stat().st_size:
            if path != paths[-1]:
                raise JournalCorrupt(
                    f"{path} is damaged at byte {good} and is not the newest segment; restore it from a copy, or move the "
                    "journal away and reconcile"
                )
            log.warning("the journal's torn end was cut off", segment=path.name, bytes=path.stat().st_size - good)
            _cut(path, good)
        found.segments.append((path, found.last_seq))
    for seq in sorted(opened):
        settle_record(opened[seq], Outcome.INTERRUPTED, counts.get(seq, Counts()))
        found.interrupted.append(opened[seq])
    return found


def _cut(path: Path, size: int) -> None:
    """Durably: a torn end that came back with the next power cut would stand in a segment that is not the newest."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def settle_record(record: usage_pb2.UsageRecord, outcome: Outcome, counts: Counts) -> None:
    """Make an opened record the whole one of a call that ended."""
    record.outcome = usage_pb2.Outcome.ValueType(outcome)
    answered = 0 if outcome is Outcome.FAILED else 1
    for meter, value in (
        (money_pb2.METER_INPUT_TOKENS, counts.input_tokens),
        (money_pb2.METER_OUTPUT_TOKENS, counts.output_tokens),
        (money_pb2.METER_REQUESTS, answered),
    ):
        record.quantities.add(meter=meter, value=value)
    for meter, value in (
        (money_pb2.METER_AUDIO_MILLISECONDS, counts.audio_milliseconds),
        (money_pb2.METER_IMAGES, counts.images),
    ):
        if value:
            record.quantities.add(meter=meter, value=value)
