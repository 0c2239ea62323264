"""What deploy asks of a place that weights are pulled from."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One file of a version.

    Attributes:
        model_version: Resource name of the version.
        name: File name within the version, `/` between folders.
        sha256: Digest of the whole file, lower-case hex; by it the file is kept, whichever versions share it.
        size_bytes: Size of the whole file.
    """

    model_version: str
    name: str
    sha256: str
    size_bytes: int


class WeightsInterrupted(Exception):
    """A pull ended early; what came is kept, and pulling again goes on from there."""


class WeightsRefused(Exception):
    """The file will not come, however often it is asked for; says why and the way out."""


class WeightsSource(Protocol):
    """A place that has the files. It is asked again after every interruption, also of another process."""

    def read(self, file: WeightsFile, offset: int) -> AsyncGenerator[bytes, None]:
        """The file from a byte on, in order, in pieces of any size; nobody has checked them yet.

        Raises:
            WeightsInterrupted: it may be there later, or the connection was lost.
            WeightsRefused: it is not given out, or is another file now.
        """
        ...
