"""An instance's log: two files of limited size, the older one replaced."""

from __future__ import annotations

import os
from pathlib import Path


class EngineLog:
    """Appends to a file and starts a new one when it is full.

    Args:
        path: The newest part; the part before is kept with the suffix ".1".
        bytes_max: Size of one part.
    """

    def __init__(self, path: Path, *, bytes_max: int) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - lives as long as the log

    def write(self, content: bytes) -> None:
        if self._file.tell() + len(content) > self._bytes_max and self._file.tell() > 0:
            self._file.close()
            os.replace(self._path, previous_part(self._path))
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 - lives as long as the log
        self._file.write(content)

    def say(self, now_ms: int, sentence: str) -> None:
        """Write a line of the keeper's own."""
        self.write(f"keeper {now_ms} {sentence}\n".encode())

    def close(self) -> None:
        self._file.close()


def previous_part(path: Path) -> Path:
    """Where the part before lies."""
    return path.with_name(path.name + ".1")


def read_last_lines(path: Path, lines: int) -> list[str]:
    """The last lines of both parts, oldest first; empty when there is no log."""
    content = b""
    for part in (previous_part(path), path):
        if part.exists():
            content += part.read_bytes()
    found = content.decode(errors="replace").splitlines()
    return found[-lines:] if lines > 0 else []
