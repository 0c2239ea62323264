"""Log files of the platform's processes: one a process, bounded, beside what the terminal shows."""

from __future__ import annotations

from pathlib import Path
from typing import IO


class LogFiles:
    """Appends lines to `<folder>/<name>.log`; a full file becomes `<name>.log.1`, so two are kept.

    Args:
        folder: Made where missing.
        bytes_max: Size of one file.
    """

    def __init__(self, folder: Path, *, bytes_max: int = 16 * 1024 * 1024) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._bytes_max = bytes_max
        self._files: dict[str, IO[str]] = {}

    def write(self, name: str, line: str) -> None:
        """Append one line of one process."""
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = self._path(name).open("a")
        elif file.tell() + len(line.encode()) + 1 > self._bytes_max:
            file.close()
            self._path(name).replace(self._folder / f"{name}.log.1")
            file = self._files[name] = self._path(name).open("a")
        file.write(line + "\n")
        file.flush()

    def close(self) -> None:
        """Close every file."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.log"
