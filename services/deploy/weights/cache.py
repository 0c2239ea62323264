"""A folder of weights by digest: pulled once, resumed after a crash, checked before anyone sees them.

<folder>/sha256/ab/abcdef…     whole files; their modification time is when they were last asked for
<folder>/partial/abcdef…       what has come of others
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from chassis.telemetry import get_logger
from services.deploy.weights.interface import WeightsFile, WeightsInterrupted, WeightsRefused, WeightsSource

log = get_logger(__name__)

_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """What the folder may hold, and how patient it is.

    Attributes:
        bytes_max: All files together; those that no instance uses make room, the longest unused first.
        attempts_max: Attempts in a row that brought nothing before a pull is given up.
        backoff_s: Pause after the first of them; doubles with each.
        backoff_s_max: Longest pause.
    """

    bytes_max: int = 64 * 1024**3
    attempts_max: int = 6
    backoff_s: float = 0.5
    backoff_s_max: float = 15.0


class WeightsCache:
    """Files of this machine's instances. One process at a time pulls a file, and one task in it.

    `fetch` is all that a launch needs; another place to pull from is another `WeightsSource`.

    Args:
        folder: Made where missing, mode 0700.
        source: Where files come from.
    """

    def __init__(self, folder: Path, source: WeightsSource, limits: CacheLimits | None = None) -> None:
        self._whole = folder / "sha256"
        self._partial = folder / "partial"
        self._source = source
        self._limits = limits or CacheLimits()
        self._pulling: dict[str, asyncio.Lock] = {}
        # Sizes of files that have room here but are not whole yet.
        self._promised: dict[str, int] = {}
        self._room = asyncio.Lock()
        for made in (folder, self._whole, self._partial):
            made.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def fetch(self, files: Sequence[WeightsFile], *, in_use: Collection[str] = ()) -> dict[str, Path]:
        """Where each file lies, by its name, once all are here and checked.

        Args:
            in_use: Digests that must stay; these files' own do anyway until this returns.

        Raises:
            WeightsRefused: a file is not given out, came with another digest twice, or there is no room for it.
            WeightsInterrupted: given up for now; fetching again goes on where this ended.
        """
        needed = {file.sha256: file for file in files}
        async with self._room_for(needed, {*in_use, *needed}):
            for file in needed.values():
                async with self._pulling.setdefault(file.sha256, asyncio.Lock()):
                    if not _is_whole(self.path(file.sha256), file):
                        await self._pull(file)
                await asyncio.to_thread(os.utime, self.path(file.sha256))
        return {file.name: self.path(file.sha256) for file in files}

    def path(self, sha256: str) -> Path:
        """Where a file with this digest lies, or would."""
        return self._whole / sha256[:2] / sha256

    def received_bytes(self, files: Iterable[WeightsFile]) -> int:
        """How much of these files is here, whole or not."""
        return sum(_size(self.path(file.sha256)) or _size(self._partial / file.sha256) for file in files)

    @asynccontextmanager
    async def _room_for(self, needed: dict[str, WeightsFile], keep: set[str]) -> AsyncIterator[None]:
        """Room is promised for the length of the block."""
        async with self._room:
            promised = {
                sha256: file.size_bytes
                for sha256, file in needed.items()
                if sha256 not in self._promised and not _is_whole(self.path(sha256), file)
            }
            others = {sha256: size for sha256, size in self._promised.items() if sha256 not in promised}
            await asyncio.to_thread(self._make_room, sum(promised.values()), others, keep)
            self._promised |= promised
        try:
            yield
        finally:
            for sha256 in promised:
                del self._promised[sha256]

    def _make_room(self, bytes_needed: int, promised: dict[str, int], keep: set[str]) -> None:
        """Drop what nobody uses until so many bytes more fit.

        Raises:
            WeightsRefused: what is in use leaves too little.
        """
        held = {path.name: path for path in self._whole.glob("*/*")}
        partial = {path.name: path for path in self._partial.iterdir()}
        # A promised one counts once, also in the moment in which it is whole already.
        used = sum(promised.values()) + sum(_size(path) for name, path in held.items() if name not in promised)
        used += sum(_size(path) for name, path in partial.items() if name not in promised and name not in keep)
        too_many = used + bytes_needed - self._limits.bytes_max
        unused = [path for name, path in (*partial.items(), *held.items()) if name not in promised and name not in keep]
        for path in sorted(unused, key=_last_use):
            if too_many <= 0:
                return
            too_many -= _size(path)
            path.unlink(missing_ok=True)
            log.info("weights dropped", sha256=path.name, why="room for others")
        if too_many > 0:
            raise WeightsRefused(
                f"{bytes_needed / _MB:,.0f} MB of weights do not fit: {too_many / _MB:,.0f} MB are missing of the "
                f"{self._limits.bytes_max / _MB:,.0f} MB allowed; delete a deployment, or raise "
                "MODELYARD_DEPLOY_WEIGHTS_BYTES_MAX"
            )

    async def _pull(self, file: WeightsFile) -> None:
        """Bring one file here, in as many attempts as it takes."""
        partial_path = self._partial / file.sha256
        failed = mismatches = 0
        while True:
            had_bytes = _size(partial_path)
            try:
                await self._attempt(file, partial_path)
                log.info("weights pulled", sha256=file.sha256, size_bytes=file.size_bytes, file=file.name)
                return
            except _OtherContent as other:
                failed, why = 1, str(other)
                mismatches += 1
                if mismatches > 1:
                    raise WeightsRefused(f"{why}: its source has another file") from None
            except WeightsInterrupted as interrupted:
                failed, why = (1 if _size(partial_path) > had_bytes else failed + 1), str(interrupted)
                if failed >= self._limits.attempts_max:
                    raise
            log.warning("weights wait", sha256=file.sha256, why=why, attempt=failed)
            await asyncio.sleep(min(self._limits.backoff_s * 2 ** (failed - 1), self._limits.backoff_s_max))

    async def _attempt(self, file: WeightsFile, partial_path: Path) -> None:
        """Go on from what is there to the file's end, check it, and put it where it belongs."""
        with _held(partial_path) as partial:
            await asyncio.to_thread(partial.resume)
            if partial.size < file.size_bytes:
                async with contextlib.aclosing(self._source.read(file, partial.size)) as pieces:
                    async for piece in pieces:
                        await asyncio.to_thread(partial.append, piece)
                        if partial.size > file.size_bytes:
                            break
            if partial.size < file.size_bytes:
                raise WeightsInterrupted(f"{file.name!r} ended after {partial.size} of {file.size_bytes} bytes")
            if partial.size > file.size_bytes or partial.digest != file.sha256:
                came = f"{partial.size} bytes with digest {partial.digest}"
                partial.clear()
                raise _OtherContent(f"{file.name!r} came as {came}; {file.size_bytes} with {file.sha256} are expected")
            await asyncio.to_thread(partial.move_to, self.path(file.sha256))


class _OtherContent(Exception):
    """What came is not the file."""


class _Partial:
    """A file that is not whole yet, and the digest of what is there."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._digest = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def resume(self) -> int:
        """Take up what is there; its size in bytes."""
        self._digest = hashlib.sha256()
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            while piece := file.read(1 << 20):
                self._digest.update(piece)
            self.size = file.tell()
        return self.size

    def append(self, piece: bytes) -> None:
        """Add bytes at the end.

        Raises:
            WeightsRefused: the disk is full.
        """
        try:
            written = 0
            while written < len(piece):
                written += os.pwrite(self._descriptor, memoryview(piece)[written:], self.size + written)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.clear()
            raise WeightsRefused("the disk of this machine is full; make room on it") from None
        self._digest.update(piece)
        self.size += len(piece)

    def clear(self) -> None:
        """Begin anew."""
        os.ftruncate(self._descriptor, 0)
        self.size = 0

    def move_to(self, path: Path) -> None:
        """The whole file appears in one step, durably."""
        os.fchmod(self._descriptor, 0o400)
        os.fsync(self._descriptor)
        path.parent.mkdir(exist_ok=True, mode=0o700)
        self._path.replace(path)
        for folder in (path.parent, path.parent.parent):
            _sync_folder(folder)


@contextmanager
def _held(path: Path) -> Iterator[_Partial]:
    """A partial file, made where missing, that no other process touches for the length of the block.

    Raises:
        WeightsInterrupted: another process pulls it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WeightsInterrupted(f"another process pulls {path.name}") from None
        # The other one may have finished, and moved it, between the two.
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(descriptor)):
            raise WeightsInterrupted(f"another process pulled {path.name}")
        yield _Partial(path, descriptor)
    finally:
        os.close(descriptor)


def _is_whole(path: Path, file: WeightsFile) -> bool:
    """A file of another size was torn by a power loss or by hand."""
    return _size(path) == file.size_bytes and path.exists()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
