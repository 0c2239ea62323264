"""The journal on a real folder: what is durable when, and what a full or failing disk does."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.inference.domain.errors import JournalFull, JournalLocked
from services.inference.domain.usage import Counts, Outcome
from services.inference.journal.journal import Journal, JournalLimits
from services.inference.journal.recovery import segment_paths
from tests.infra.journal import frames
from tests.integration.inference.build import (
    a_record,
    counts,
    opened,
    running_journal,
    settle_calls,
    steps,
    until,
)


class HeldDisk:
    """fdatasync that waits until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._let_go = threading.Event()
        self.reached = threading.Event()
        real = os.fdatasync

        def held(descriptor: int) -> None:
            self.reached.set()
            self._let_go.wait(30)
            real(descriptor)

        monkeypatch.setattr(os, "fdatasync", held)

    def let_go(self) -> None:
        self._let_go.set()


def failing(monkeypatch: pytest.MonkeyPatch, name: str, holds: Any = lambda *_: True) -> None:
    """Let a function of the operating system say that the disk is full, where `holds`."""
    real = getattr(os, name)

    def full(*arguments: Any, **named: Any) -> Any:
        if holds(*arguments):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **named)

    monkeypatch.setattr(os, name, full)


@contextlib.contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes: a real disk's refusal, in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_call_may_begin_to_answer_only_when_its_opening_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_journal(tmp_path) as journal:
        disk = HeldDisk(monkeypatch)
        entry = journal.open(a_record())
        await asyncio.to_thread(disk.reached.wait, 10)
        assert not entry.opened.done()
        disk.let_go()
        await entry.opened
        assert steps(tmp_path, "opened") == [entry.seq]


async def test_a_call_may_end_only_when_its_record_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_journal(tmp_path) as journal:
        entry = await opened(journal)
        disk = HeldDisk(monkeypatch)
        durable = entry.settle(Outcome.COMPLETED, Counts(3, 4))
        await asyncio.to_thread(disk.reached.wait, 10)
        assert not durable.done()
        assert not journal.settled
        disk.let_go()
        await durable
        assert counts(frames(tmp_path)[-1].settled) == Counts(3, 4)


async def test_a_record_is_sent_even_if_nobody_waited_for_it_to_be_durable(tmp_path: Path) -> None:
    """A client that hangs up at the last moment cancels the wait, not the record."""
    async with running_journal(tmp_path) as journal:
        entry = await opened(journal)
        entry.settle(Outcome.COMPLETED, Counts(1, 1)).cancel()
        await until(lambda: entry.seq in journal.settled)


async def test_what_streams_have_delivered_is_durable_an_interval_later(tmp_path: Path) -> None:
    """Also when the journal had nothing to do before: twenty steps take far less than the journal's idle time each."""
    async with running_journal(tmp_path) as journal:
        entry = await opened(journal)
        async with asyncio.timeout(5):
            for delivered in range(1, 21):
                entry.progress(Counts(9, delivered))
                await until(
                    lambda expected=delivered: any(
                        frame.progress.output_tokens == expected for frame in frames(tmp_path)
                    )
                )
        await entry.settle(Outcome.COMPLETED, Counts(9, 20))


async def test_an_opening_without_urgency_is_durable_within_an_interval(tmp_path: Path) -> None:
    """Nothing else wakes the thread: neither another call nor its own settlement, also after the journal was idle."""
    async with running_journal(tmp_path) as journal:
        async with asyncio.timeout(5):
            for _ in range(20):
                entry = journal.open(a_record(), urgent=False)
                await entry.opened
                assert entry.seq in steps(tmp_path, "opened")
                await entry.settle(Outcome.COMPLETED, Counts())


async def test_a_call_that_answers_at_once_costs_one_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its opening stands before its settlement all the same."""
    syncs: list[int] = []
    real = os.fdatasync
    async with running_journal(tmp_path, commit_interval_s=10.0) as journal:
        await settle_calls(journal, 1)
        monkeypatch.setattr(os, "fdatasync", lambda descriptor: (syncs.append(descriptor), real(descriptor)))
        entry = journal.open(a_record(), urgent=False)
        await entry.settle(Outcome.COMPLETED, Counts())
        assert entry.opened.done()
    assert len(syncs) == 1
    assert steps(tmp_path, "opened") == steps(tmp_path, "settled") == [1, 2]


async def test_one_fsync_serves_all_calls_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk is busy with the first, the others gather; the next write takes all of them."""
    calls: list[int] = []
    real, all_wait = os.fdatasync, threading.Event()

    def slow(descriptor: int) -> None:
        calls.append(descriptor)
        all_wait.wait(10)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", slow)
    async with running_journal(tmp_path) as journal:
        entries = [journal.open(a_record()) for _ in range(200)]
        all_wait.set()
        await asyncio.gather(*(entry.opened for entry in entries))
    assert 1 <= len(calls) <= 2


async def test_sequences_are_dense_across_processes(tmp_path: Path) -> None:
    for _ in range(3):
        async with running_journal(tmp_path) as journal:
            await settle_calls(journal, 4)
    assert sorted(steps(tmp_path, "settled")) == list(range(1, 13))


async def test_a_call_settles_once(tmp_path: Path) -> None:
    async with running_journal(tmp_path) as journal:
        entry = await opened(journal)
        await entry.settle(Outcome.COMPLETED, Counts())
        with pytest.raises(RuntimeError):
            entry.settle(Outcome.CANCELLED, Counts())


async def test_one_process_at_a_time(tmp_path: Path) -> None:
    async with running_journal(tmp_path):
        with pytest.raises(JournalLocked, match="another process writes the journal"):
            Journal(tmp_path, JournalLimits())


# Full


async def test_as_many_unbilled_entries_as_allowed_refuse_new_calls_until_billing_moves_on(tmp_path: Path) -> None:
    async with running_journal(tmp_path, entries_max=3) as journal:
        await settle_calls(journal, 3)
        with pytest.raises(JournalFull, match="holds 3 entries"):
            journal.open(a_record())
        journal.forget_committed(1)
        await opened(journal)


async def test_a_journal_at_its_size_refuses_new_calls_until_billing_moves_on(tmp_path: Path) -> None:
    async with running_journal(tmp_path, size_bytes_max=4096, segment_bytes_max=1024) as journal:
        while not journal.refusing:
            await settle_calls(journal, 1)
        with pytest.raises(JournalFull, match="bring NATS and billing back"):
            journal.open(a_record())
        journal.forget_committed(journal.last_seq)
        await until(lambda: not journal.refusing)
        await opened(journal)


async def test_the_size_is_that_of_the_files(tmp_path: Path) -> None:
    """Also of those an earlier process left, and after some were deleted."""

    def on_disk() -> int:
        return sum(path.stat().st_size for path in segment_paths(tmp_path))

    async with running_journal(tmp_path, segment_bytes_max=1024) as journal:
        await settle_calls(journal, 20)
    async with running_journal(tmp_path, segment_bytes_max=1024) as journal:
        assert journal.size_bytes == on_disk() > 4096
        await settle_calls(journal, 5)
        journal.forget_committed(20)
        await until(lambda: journal.size_bytes == on_disk() and min(steps(tmp_path, "settled")) > 20)


async def test_segments_go_only_when_every_call_in_them_is_billed(tmp_path: Path) -> None:
    async with running_journal(tmp_path, segment_bytes_max=512) as journal:
        held = await opened(journal)
        for _ in range(5):
            await settle_calls(journal, 2)
        journal.forget_committed(held.seq - 1)
        await settle_calls(journal, 1)
        assert held.seq in steps(tmp_path, "opened")
        await held.settle(Outcome.COMPLETED, Counts(1, 1))
        journal.forget_committed(journal.last_seq)
        await until(lambda: held.seq not in steps(tmp_path, "opened"))


# Failing


async def test_on_a_full_disk_new_work_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    """The kernel cuts a write in the middle of a frame; what was settled meanwhile is written when there is room."""
    async with running_journal(tmp_path) as journal:
        running = [await opened(journal) for _ in range(5)]
        size = segment_paths(tmp_path)[-1].stat().st_size
        with files_end_at(size + 100):
            late = journal.open(a_record())
            waiting = [entry.settle(Outcome.COMPLETED, Counts(7, 3)) for entry in running]
            with pytest.raises(JournalFull, match="free or mend its disk"):
                await late.opened
            with pytest.raises(JournalFull):
                journal.open(a_record())
            late_settled = late.settle(Outcome.FAILED, Counts())
            assert not any(done.done() for done in waiting)
        await asyncio.gather(*waiting, late_settled)
        assert not journal.refusing
        await settle_calls(journal, 1)
    assert steps(tmp_path, "opened") == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(steps(tmp_path, "settled")) == [1, 2, 3, 4, 5, 6, 7]


async def test_a_failed_fsync_is_never_taken_for_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fsync the kernel may have dropped the pages: the same frames are written again, once."""
    async with running_journal(tmp_path) as journal:
        entry = await opened(journal)
        with monkeypatch.context() as failure:
            failing(failure, "fdatasync")
            durable = entry.settle(Outcome.COMPLETED, Counts(1, 1))
            await until(lambda: journal.refusing)
            assert not durable.done()
        await durable
    assert steps(tmp_path, "settled") == [1]


async def test_half_a_frame_never_stands_before_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a failed write cannot be cut off at once, it is before the next one."""
    async with running_journal(tmp_path) as journal:
        entry = await opened(journal)
        size = segment_paths(tmp_path)[-1].stat().st_size
        with monkeypatch.context() as failure, files_end_at(size + 30):
            failing(failure, "ftruncate")
            durable = entry.settle(Outcome.COMPLETED, Counts(1, 1))
            await until(lambda: journal.refusing)
        await durable
        await settle_calls(journal, 1)
    assert steps(tmp_path, "settled") == [1, 2]


async def test_a_disk_without_room_for_another_segment_holds_up_nothing_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_journal(tmp_path, segment_bytes_max=256) as journal:
        await settle_calls(journal, 1)
        with monkeypatch.context() as failure:
            failing(failure, "open", lambda path, *_: str(path).endswith(".journal"))
            with pytest.raises(JournalFull):
                await journal.open(a_record()).opened
        await until(lambda: not journal.refusing)
        await settle_calls(journal, 1)
    assert steps(tmp_path, "opened") == [1, 2, 3]


async def test_a_journal_that_cannot_go_on_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread's end is the service's end: calls must not wait for a journal that is gone."""
    async with running_journal(tmp_path) as journal:
        watching = asyncio.create_task(journal.watch())

        def broken(*_: Any) -> None:
            raise ValueError("a bug")

        monkeypatch.setattr(os, "fdatasync", broken)
        entry = journal.open(a_record())
        with pytest.raises(ValueError, match="a bug"):
            await watching
        with pytest.raises(JournalFull):
            await entry.opened
        with pytest.raises(JournalFull):
            journal.open(a_record())
