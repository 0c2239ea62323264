"""Bytes of artifacts by the scheme of their URI; a further kind of place is a further `ByteSource`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlparse

from services.catalog.artifacts.store import PIECE_BYTES, ArtifactStore
from services.catalog.domain.downloads import Download
from services.catalog.domain.errors import WeightsNotHere

# URIs of contents of the artifact store: `store:<sha256>`.
STORE = "store"


class ByteSource(Protocol):
    """A place that artifacts lie in. It is asked for ranges, so that a broken download goes on where it was."""

    def read(self, file: Download, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The file's bytes from `start` up to, not including, `stop`, in order, in pieces of at most 2 MiB.

        Whoever downloads checks the digest; a source that ends early or too late is found by it.

        Raises:
            Problem: the bytes cannot be had now, or not any more.
        """
        ...


class WheelFiles:
    """`file:` URIs: files of installed wheels, as the content names them; nothing that users say makes one."""

    async def read(self, file: Download, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        path = Path(unquote(urlparse(file.uri).path))
        try:
            opened = await asyncio.to_thread(path.open, "rb")
        except OSError:
            raise _gone(file) from None
        with opened:
            opened.seek(start)
            for offset in range(start, stop, PIECE_BYTES):
                piece = await asyncio.to_thread(opened.read, min(PIECE_BYTES, stop - offset))
                if not piece:
                    raise _gone(file)
                yield piece


class StoredFiles:
    """`store:` URIs: contents of the artifact store."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def read(self, file: Download, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        return self._store.read(urlparse(file.uri).path, start, stop)


class ByteSources:
    """Every place there is, by scheme."""

    def __init__(self, by_scheme: Mapping[str, ByteSource]) -> None:
        self._by_scheme = dict(by_scheme)

    def read(self, file: Download, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """As `ByteSource.read`, from the place that the file's URI names.

        Raises:
            WeightsNotHere: this release knows no such place.
        """
        scheme = urlparse(file.uri).scheme
        source = self._by_scheme.get(scheme)
        if source is None:
            raise WeightsNotHere(
                f"{file.artifact!r} of {file.model_version} lies where this platform cannot read ({scheme or 'nowhere'})"
            )
        return source.read(file, start, stop)


def _gone(file: Download) -> WeightsNotHere:
    return WeightsNotHere(
        f"{file.artifact!r} of {file.model_version} is not on this platform any more; the operator installs it again"
    )
