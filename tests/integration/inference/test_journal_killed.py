"""kill -9 of a process that writes a journal, at moments drawn from a seed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from modelyard.type.v1 import usage_pb2

from tests.infra.journal import frames
from tests.integration.inference.build import counts, running_journal, steps, until
from tests.integration.inference.journal_child import INPUT_TOKENS

SEEDS = (1, 2, 3)
DEATHS = 2


@dataclass
class Seen:
    """What the witnesses say of each call: tokens that were delivered, the least the disk must know, the final count."""

    opened: set[int] = field(default_factory=set)
    delivered: dict[int, int] = field(default_factory=dict)
    durable: dict[int, int] = field(default_factory=dict)
    settling: dict[int, int] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)

    def read(self, witness: Path) -> None:
        noted: dict[int, int] = {}
        # A commit holds what was noted when the one before it returned: that is how far it is behind at most.
        waiting: dict[int, int] = {}
        for line in witness.read_text().splitlines():
            fact, *numbers = line.split()
            seq, tokens = [int(number) for number in (*numbers, "0", "0")[:2]]
            match fact:
                case "opened":
                    self.opened.add(seq)
                case "delivered":
                    self.delivered[seq] = tokens
                case "noted":
                    noted[seq] = tokens
                case "settling":
                    self.settling[seq] = tokens
                case "settled":
                    self.settled.add(seq)
                case "commit":
                    self.durable |= waiting
                    waiting = dict(noted)


async def kill_a_writer(folder: Path, witness: Path, seed: int) -> None:
    """Let a child write until its witness has a drawn number of lines, then kill it."""
    lines_max = random.Random(seed).randrange(50, 1500)
    command = [sys.executable, "-m", "tests.integration.inference.journal_child", str(folder), str(witness), str(seed)]
    child = await asyncio.create_subprocess_exec(*command)
    try:
        await until(
            lambda: (
                child.returncode is not None or (witness.exists() and witness.read_bytes().count(b"\n") >= lines_max)
            ),
            timeout_s=60,
        )
        assert child.returncode is None, "the child ended by itself"
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
    assert child.returncode == -signal.SIGKILL


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_call_has_one_record_that_is_never_above_what_was_delivered(tmp_path: Path, seed: int) -> None:
    """And less by no more than the tokens of one commit interval; the next process goes on with the sequence."""
    folder, seen = tmp_path / "journal", Seen()
    for death in range(DEATHS):
        witness = tmp_path / f"witness-{death}"
        await kill_a_writer(folder, witness, seed * 100 + death)
        seen.read(witness)
    async with running_journal(folder) as journal:
        await until(lambda: set(steps(folder, "settled")) >= set(steps(folder, "opened")))
        last_seq = journal.last_seq
    records = [frame.settled for frame in frames(folder) if frame.WhichOneof("step") == "settled"]
    assert Counter(record.journal_seq for record in records) == Counter(range(1, last_seq + 1))
    assert seen.opened <= set(range(1, last_seq + 1))
    for record in records:
        seq, tokens = record.journal_seq, counts(record).output_tokens
        if record.outcome == usage_pb2.OUTCOME_COMPLETED:
            assert (tokens, counts(record).input_tokens) == (seen.settling[seq], INPUT_TOKENS)
            continue
        assert record.outcome == usage_pb2.OUTCOME_INTERRUPTED
        assert seq not in seen.settled, f"seed {seed}: call {seq} had ended"
        assert seen.durable.get(seq, 0) <= tokens <= seen.delivered.get(seq, 0), f"seed {seed}: call {seq}"
    assert any(record.outcome == usage_pb2.OUTCOME_INTERRUPTED for record in records)
