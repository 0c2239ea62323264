"""Why a file is not taken."""

from __future__ import annotations

from dataclasses import dataclass


class Refusal(Exception):
    """The file is not taken; says what is in it, never its name or path."""


@dataclass(frozen=True, slots=True)
class ScanLimits:
    """How far a file is followed.

    Attributes:
        pickle_bytes_max: Largest pickle that is read; its instructions are held in memory.
        archive_entries_max: Files in an archive.
        archive_ratio_max: Bytes unpacked for each byte packed.
    """

    pickle_bytes_max: int = 4 << 20
    archive_entries_max: int = 10_000
    archive_ratio_max: int = 200
