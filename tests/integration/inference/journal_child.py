"""A process that writes a journal until it is killed: `journal_child FOLDER WITNESS SEED`.

The witness is what a client and the disk would say, one line a fact, each durable when the next thing happens:
`opened SEQ`, `delivered SEQ TOKENS` (before the journal hears of it), `noted SEQ TOKENS` (after), `settling SEQ TOKENS`,
`settled SEQ`, `commit` (an fsync of the journal returned).
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

from services.inference.domain.usage import Counts, Outcome
from services.inference.journal.journal import Journal, JournalLimits
from tests.integration.inference.build import a_record

INPUT_TOKENS = 17


async def main(folder: Path, witness: Path, seed: int) -> None:
    lines = os.open(witness, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_DSYNC, 0o600)
    draws = random.Random(seed)
    real = os.fdatasync

    def say(*words: object) -> None:
        os.write(lines, (" ".join(str(word) for word in words) + "\n").encode())

    def fdatasync(descriptor: int) -> None:
        real(descriptor)
        say("commit")

    os.fdatasync = fdatasync
    journal = Journal(folder, JournalLimits(segment_bytes_max=16 * 1024, commit_interval_s=0.02))
    journal.start()

    async def call() -> None:
        entry = journal.open(a_record())
        await entry.opened
        say("opened", entry.seq)
        tokens = 0
        for _ in range(draws.randrange(1, 60)):
            await asyncio.sleep(draws.random() * 0.01)
            tokens += draws.randrange(1, 4)
            say("delivered", entry.seq, tokens)
            entry.progress(Counts(INPUT_TOKENS, tokens))
            say("noted", entry.seq, tokens)
        say("settling", entry.seq, tokens)
        await entry.settle(Outcome.COMPLETED, Counts(INPUT_TOKENS, tokens))
        say("settled", entry.seq)

    async def calls() -> None:
        while True:
            await call()

    await asyncio.gather(*(calls() for _ in range(8)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
