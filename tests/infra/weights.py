"""A place to pull weights from, in memory, for faults that no real place makes when a test needs them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from services.deploy.weights.interface import WeightsFile


def a_file(content: bytes, name: str = "model.bin") -> WeightsFile:
    """A file with this content, as a version names it."""
    digest = hashlib.sha256(content).hexdigest()
    return WeightsFile("publishers/acme/models/talker/versions/1", name, digest, len(content))


@dataclass
class WeightsInMemory:
    """Gives out contents by digest, `piece_bytes` at a time."""

    contents: dict[str, bytes] = field(default_factory=dict)
    piece_bytes: int = 4
    # Raised one after the other, each after this many pieces of the attempt it ends.
    faults: list[tuple[int, Exception]] = field(default_factory=list)
    # (digest, offset) of every attempt.
    asked: list[tuple[str, int]] = field(default_factory=list)
    # Pieces wait for it, but for the first `free_pieces` of an attempt.
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    free_pieces: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def add(self, content: bytes, name: str = "model.bin") -> WeightsFile:
        """Give out a content."""
        file = a_file(content, name)
        self.contents[file.sha256] = content
        return file

    async def read(self, file: WeightsFile, offset: int) -> AsyncGenerator[bytes, None]:
        self.asked.append((file.sha256, offset))
        pieces_left, fault = self.faults.pop(0) if self.faults else (-1, None)
        content = self.contents[file.sha256]
        for number, start in enumerate(range(offset, len(content), self.piece_bytes)):
            if number == pieces_left and fault is not None:
                raise fault
            if number >= self.free_pieces:
                await self.gate.wait()
            yield content[start : start + self.piece_bytes]
        if pieces_left >= 0 and fault is not None:
            raise fault
