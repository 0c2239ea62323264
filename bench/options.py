"""What a run of the benchmarks is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """How much to measure, and where to keep what is thrown away afterwards.

    Attributes:
        folder: On the disk whose fsync counts.
        runs: Of each measurement.
        quick: Short runs: they show that a benchmark works, and give no number to keep.
    """

    folder: Path
    runs: int = 5
    quick: bool = False

    def seconds(self, full: float, quick: float) -> float:
        """How long one measurement takes."""
        return quick if self.quick else full

    def count(self, full: int, quick: int) -> int:
        """How many it is made of."""
        return quick if self.quick else full

    def new_folder(self, name: str) -> Path:
        """An empty folder."""
        made = self.folder / name
        made.mkdir(parents=True)
        return made
