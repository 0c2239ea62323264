"""The folder of this replica's index: one generation that answers, and another while it is built anew."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path
from typing import TextIO

from chassis.ids import new_uid
from chassis.service import write_atomically
from chassis.telemetry import get_logger
from services.catalog.domain.errors import SearchFolderLocked
from services.catalog.search.index import IndexDamaged, SearchIndex
from services.catalog.search.schema import SCHEMA_VERSION

log = get_logger(__name__)
# Names the generation that answers; replaced as a whole.
_CURRENT = "current"


class Generations:
    """Opens and replaces generations, each in a folder of its own that names its schema.

    Args:
        folder: Of this process alone: two replicas have two.
        heap_bytes: Memory of a writer.
    """

    def __init__(self, folder: Path, heap_bytes: int) -> None:
        self._folder = folder
        self._heap_bytes = heap_bytes
        self._lock: TextIO | None = None

    def open_current(self) -> SearchIndex | None:
        """The generation that answered last; None where there is none that this release can read.

        What a process left half built when it died is removed.

        Raises:
            SearchFolderLocked: another process has its index here.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._take_lock()
        pointer = self._folder / _CURRENT
        name = pointer.read_text().strip() if pointer.exists() else ""
        for other in self._folder.iterdir():
            if other.is_dir() and other.name != name:
                shutil.rmtree(other)
        if not name.startswith(f"{SCHEMA_VERSION}-") or not (self._folder / name).is_dir():
            return None
        try:
            return SearchIndex(self._folder / name, self._heap_bytes)
        except IndexDamaged as error:
            log.warning("the search index is damaged; building another", error=str(error))
            return None

    def release(self) -> None:
        """Let another process have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> None:
        lock = (self._folder / "lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise SearchFolderLocked(
                f"another process has its search index in {self._folder}; give each replica a data folder of its own"
            ) from None
        self._lock = lock

    def create(self) -> SearchIndex:
        """An empty generation that answers nothing yet.

        Raises:
            IndexDamaged: the folder cannot be written.
        """
        return SearchIndex(self._folder / f"{SCHEMA_VERSION}-{new_uid()}", self._heap_bytes)

    def make_current(self, index: SearchIndex) -> None:
        """Let a generation be the one that is opened from now on."""
        write_atomically(self._folder / _CURRENT, index.folder.name)

    def remove(self, index: SearchIndex) -> None:
        """Close a generation and remove its files; a reader that still has them open keeps them."""
        try:
            index.close()
        except IndexDamaged as error:
            log.warning("a damaged search index was not closed", error=str(error))
        shutil.rmtree(index.folder, ignore_errors=True)
