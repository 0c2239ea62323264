"""One index in one folder: written by one thread, searched by any."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import tantivy

from services.catalog.search import schema
from services.catalog.search.reader import Position, Reader

Result = TypeVar("Result")


class IndexDamaged(Exception):
    """The index cannot be opened, read or written any more; another one has to be built."""


class SearchIndex:
    """An index that a process has opened; only one process may have it open to write.

    Args:
        folder: Holds nothing else; an empty one is made into an index.
        heap_bytes: Memory of the writer before it lays a segment down, at least 15 MB.

    Raises:
        IndexDamaged: its files are not what this release can read, or another process writes it.
    """

    def __init__(self, folder: Path, heap_bytes: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._schema = schema.build_schema()
        with _damage(folder):
            self._index = tantivy.Index(self._schema, str(folder), reuse=True)
            self._index.register_tokenizer(schema.TEXT_TOKENIZER, schema.text_analyzer())
            # Searchers see what `commit` here has written; nothing else writes.
            self._index.config_reader("manual")
            self._index.reload()
            self._writer = self._index.writer(heap_bytes, 1)
            self.position = self.reader().position()
            self.document_count = self.reader().document_count()
        self._uncommitted = 0

    def reader(self, helpers: Executor | None = None) -> Reader:
        """The index as it was last committed; stays as it is while others write."""
        return Reader(self._schema, self._index.searcher(), helpers)

    def read(self, work: Callable[[Reader], Result], helpers: Executor | None = None) -> Result:
        """Do something with a reader.

        Raises:
            IndexDamaged: the files cannot be read.
        """
        with _damage(self.folder):
            return work(self.reader(helpers))

    def put(self, documents: Sequence[tuple[str, tantivy.Document | None]], *, replace: bool = True) -> None:
        """Add documents by name in place of those that are there; None takes one out. Seen from the next commit on.

        Args:
            replace: False where none of the names is there yet: nothing is looked for then.
        """
        with _damage(self.folder):
            for name, document in documents:
                if replace:
                    self._writer.delete_documents_by_term(schema.NAME, name)
                if document is not None:
                    self._writer.add_document(document)
            self._uncommitted += len(documents)

    @property
    def uncommitted(self) -> int:
        """Documents put since the last commit."""
        return self._uncommitted

    def commit(self, position: Position) -> None:
        """Make what was put durable and visible, together with how far it goes.

        A process that dies before the end leaves the state of the commit before.
        """
        with _damage(self.folder):
            self._writer.delete_documents_by_term(schema.NAME, schema.POSITION_KEY)
            mark = tantivy.Document()
            mark.add_text(schema.NAME, schema.POSITION_KEY)
            mark.add_integer(schema.POSITION, position.change)
            mark.add_text(schema.ORIGIN, position.origin)
            self._writer.add_document(mark)
            self._writer.commit()
            self._index.reload()
            self.position = position
            self.document_count = self.reader().document_count()
        self._uncommitted = 0

    def close(self) -> None:
        """Wait for segments that are being merged, and let the folder go; what was not committed is lost."""
        with _damage(self.folder):
            self._writer.rollback()
            self._writer.wait_merging_threads()


@contextmanager
def _damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:
        raise IndexDamaged(f"search index in {folder}: {error}") from error
    except BaseException as error:
        # A panic inside the engine is no Exception, so that nobody swallows it; here it means a broken file.
        if type(error).__name__ != "PanicException":
            raise
        raise IndexDamaged(f"search index in {folder}: {error}") from error
