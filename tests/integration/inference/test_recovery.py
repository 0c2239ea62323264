"""What the next process makes of a folder, whatever happened to the last one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from modelyard.inference.v1 import journal_pb2
from modelyard.type.v1 import usage_pb2

from chassis.service import write_atomically
from services.inference.domain.errors import JournalCorrupt
from services.inference.domain.usage import Counts, Outcome
from services.inference.journal.frames import encode_frame
from services.inference.journal.journal import Journal, JournalLimits
from services.inference.journal.recovery import recover, segment_paths
from services.inference.journal.segments import read_identity, write_identity
from tests.infra.journal import frames
from tests.integration.inference.build import (
    counts,
    opened,
    running_journal,
    settle_calls,
    steps,
    until,
)


async def killed(folder: Path, copy: Path) -> Path:
    """A folder as a process leaves it that is killed while a call is open: three settled, one delivered in part."""
    async with running_journal(folder) as journal:
        await settle_calls(journal, 3)
        entry = await opened(journal)
        entry.progress(Counts(11, 5))
        await until(lambda: "progress" in [frame.WhichOneof("step") for frame in frames(folder)])
        shutil.copytree(folder, copy)
    return copy


def written_segment(folder: Path) -> Path:
    return next(path for path in reversed(segment_paths(folder)) if path.stat().st_size)


async def test_an_open_call_settles_as_interrupted_at_its_last_durable_counts(tmp_path: Path) -> None:
    folder = await killed(tmp_path / "journal", tmp_path / "copy")
    async with running_journal(folder) as journal:
        await until(lambda: 4 in journal.settled)
        record = journal.settled[4]
        assert (record.outcome, counts(record)) == (usage_pb2.OUTCOME_INTERRUPTED, Counts(11, 5))
    assert steps(folder, "settled") == [1, 2, 3, 4]


async def test_recovery_that_dies_itself_gives_the_same_record_again(tmp_path: Path) -> None:
    """Or its record, sent twice, would be a conflict."""
    folder = await killed(tmp_path / "journal", tmp_path / "copy")
    first, again = recover(folder).interrupted, recover(folder).interrupted
    assert first == again
    assert [record.journal_seq for record in first] == [4]


async def test_what_was_settled_before_is_sent_after(tmp_path: Path) -> None:
    async with running_journal(tmp_path) as journal:
        ids = await settle_calls(journal, 5)
    async with running_journal(tmp_path) as journal:
        assert [journal.settled[seq].id for seq in journal.unsent] == ids


@pytest.mark.parametrize(
    "tail", [b"\x05", b"\x40\0\0\0abcd" + b"half a frame", bytes(24)], ids=["byte", "frame", "zeros"]
)
async def test_a_torn_end_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    folder = await killed(tmp_path / "journal", tmp_path / "copy")
    segment = written_segment(folder)
    whole = segment.stat().st_size
    with segment.open("ab") as file:
        file.write(tail)
    assert sorted(recover(folder).settled) == [1, 2, 3]
    assert segment.stat().st_size == whole


@pytest.mark.parametrize("damage", [b"\xff", bytes(400)], ids=["byte", "zeros"])
async def test_damage_in_an_older_segment_is_refused(tmp_path: Path, damage: bytes) -> None:
    """A crash cannot have done it, so it is for a human; the journal is not locked by the attempt."""
    async with running_journal(tmp_path, segment_bytes_max=512) as journal:
        for _ in range(6):
            await settle_calls(journal, 2)
    segment = segment_paths(tmp_path)[1]
    content = bytearray(segment.read_bytes())
    content[0 : len(damage)] = damage
    segment.write_bytes(content)
    for _ in range(2):
        with pytest.raises(JournalCorrupt, match=r"0002\.journal is damaged at byte 0 "):
            Journal(tmp_path, JournalLimits())


async def test_sequences_outlive_the_segments_they_were_written_in(tmp_path: Path) -> None:
    async with running_journal(tmp_path, segment_bytes_max=256) as journal:
        await settle_calls(journal, 4)
        await settle_calls(journal, 1)
        journal.forget_committed(5)
        await until(lambda: read_identity(tmp_path)[1] == 5)
    for path in segment_paths(tmp_path):
        path.unlink()
    async with running_journal(tmp_path) as journal:
        assert (await opened(journal)).seq == 6


async def test_what_is_billed_is_not_sent_again_from_a_segment_whose_deletion_was_cut_short(tmp_path: Path) -> None:
    """Killed between noting the watermark and deleting the file."""
    async with running_journal(tmp_path) as journal:
        await settle_calls(journal, 4)
    write_identity(tmp_path, read_identity(tmp_path)[0], 3)
    async with running_journal(tmp_path) as journal:
        assert list(journal.settled) == list(journal.unsent) == [4]
        journal.forget_committed(4)
        await until(lambda: not steps(tmp_path, "settled"))


async def test_a_folder_from_an_old_copy_gives_no_sequence_away_again(tmp_path: Path) -> None:
    """It would count as billed, and its record would be forgotten."""
    async with running_journal(tmp_path) as journal:
        await settle_calls(journal, 2)
        journal.forget_committed(9)
        assert (await opened(journal)).seq == 10


async def test_the_journal_keeps_its_id(tmp_path: Path) -> None:
    ids = set()
    for _ in range(2):
        async with running_journal(tmp_path) as journal:
            ids.add(journal.journal_id)
    assert len(ids) == 1


async def test_a_record_settled_twice_counts_once(tmp_path: Path) -> None:
    """A batch whose fsync failed is written again, and an old half may survive on the disk."""
    async with running_journal(tmp_path) as journal:
        await settle_calls(journal, 1)
    both = b"".join(encode_frame(frame) for frame in frames(tmp_path))
    with segment_paths(tmp_path)[-1].open("ab") as file:
        file.write(both)
    found = recover(tmp_path)
    assert (list(found.settled), found.interrupted) == ([1], [])


async def test_a_call_that_never_delivered_is_recovered_at_zero(tmp_path: Path) -> None:
    async with running_journal(tmp_path) as journal:
        await opened(journal)
    async with running_journal(tmp_path) as journal:
        await until(lambda: 1 in journal.settled)
        assert (journal.settled[1].outcome, counts(journal.settled[1])) == (Outcome.INTERRUPTED, Counts())


def test_frames_are_read_up_to_the_first_that_is_not_whole(tmp_path: Path) -> None:
    frame = encode_frame(journal_pb2.JournalFrame(progress=journal_pb2.JournalProgress(journal_seq=1, input_tokens=2)))
    for cut in range(1, len(frame)):
        folder = tmp_path / str(cut)
        folder.mkdir()
        write_atomically(folder / "journal.json", "{}")
        (folder / "000000000001.journal").write_bytes(frame + frame[:cut])
        assert len(frames(folder)) == 1
