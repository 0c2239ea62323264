"""Files by digest, in a folder or in an S3-compatible bucket.

sha256/ab/abcdef…        whole files: put once, never changed, deduplicated
uploads/<uid>/<part>     parts of uploads that are not whole yet
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from chassis.secret_files import SecretFiles
from services.catalog.domain.errors import StoreUnavailable, UploadDigestWrong

# What is read at once, and so what one reader holds in memory.
PIECE_BYTES = 2 << 20
# One part of a multi-part put, and how many are under way together.
_PUT_PART_BYTES, _PUT_PARTS = 8 << 20, 2
_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where the store lies.

    Attributes:
        url: `file:///folder` or `s3://bucket/prefix`.
        s3_endpoint: `https://host` of an S3-compatible service; empty: Amazon's own.
        s3_region: Its region.
        s3_credential_file: One line `ACCESS_KEY_ID:SECRET_ACCESS_KEY`, mode 0600; None: the machine's own identity or
            environment.
        request_s_max: Longest single request to it, retries included, seconds.
    """

    url: str
    s3_endpoint: str = ""
    s3_region: str = "us-east-1"
    s3_credential_file: Path | None = None
    request_s_max: float = 60.0


class ArtifactStore:
    """Contents by SHA-256. Every method may be repeated after a crash, here or in another process."""

    def __init__(self, settings: StoreSettings) -> None:
        location = urlparse(settings.url)
        self._folder: Path | None = None
        self._store: LocalStore | S3Store
        if location.scheme == "file":
            self._folder = Path(unquote(location.path))
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._store = LocalStore(self._folder, automatic_cleanup=True)
        elif location.scheme == "s3":
            self._store = _s3(settings, location.netloc, location.path.strip("/"))
        else:
            raise ValueError(f"artifact store {settings.url!r} is neither file:///folder nor s3://bucket/prefix")

    async def put(self, path: Path, sha256: str) -> None:
        """Store a local file that has this digest; readers see all of it or nothing.

        Raises:
            UploadDigestWrong: it has another digest; nothing is stored.
            StoreUnavailable: the store does not answer; nothing can be seen of the file.
        """
        found = await asyncio.to_thread(_digest, path)
        if found != sha256:
            raise UploadDigestWrong(f"the file has digest {found}; {sha256} was announced: upload it anew")
        await self._put(_content_key(sha256), path)

    async def size_of(self, sha256: str) -> int | None:
        """Size in bytes; None where there is no such content."""
        with _translated(f"look for {sha256}"):
            try:
                return int((await obstore.head_async(self._store, _content_key(sha256)))["size"])
            except FileNotFoundError:
                return None

    async def read(self, sha256: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to, not including, `stop`, in order, in pieces of at most `PIECE_BYTES`.

        Raises:
            StoreUnavailable: the store does not answer, or has no such content any more.
        """
        # A request a piece: a reader that is slow holds no connection to the store open meanwhile.
        for offset in range(start, stop, PIECE_BYTES):
            with _translated(f"read {sha256}"):
                end = min(offset + PIECE_BYTES, stop)
                yield bytes(await obstore.get_range_async(self._store, _content_key(sha256), start=offset, end=end))

    async def remove(self, sha256: str) -> None:
        """Remove a content that nothing refers to; one that is gone already is fine."""
        await self._remove([_content_key(sha256)])

    async def put_part(self, upload_uid: str, part: str, data: bytes) -> None:
        """Store a part of an upload under a name of its own; the same name again replaces it."""
        await self._put(_part_key(upload_uid, part), data)

    async def read_part(self, upload_uid: str, part: str) -> bytes:
        """A part as it was put."""
        with _translated(f"read a part of upload {upload_uid}"):
            result = await obstore.get_async(self._store, _part_key(upload_uid, part))
            return bytes(await result.bytes_async())

    async def remove_parts(self, upload_uid: str) -> int:
        """Remove every part of an upload, also those that no row knows; how many there were."""
        with _translated(f"list parts of upload {upload_uid}"):
            found = await obstore.list(self._store, prefix=f"uploads/{upload_uid}").collect_async()
        await self._remove([entry["path"] for entry in found])
        return len(found)

    async def uploads(self) -> list[str]:
        """Uids of the uploads that have parts here."""
        with _translated("list uploads"):
            found = await obstore.list_with_delimiter_async(self._store, prefix="uploads")
        return sorted(str(prefix).rpartition("/")[2] for prefix in found["common_prefixes"])

    async def _put(self, key: str, content: Path | bytes) -> None:
        with _translated("write"):
            await obstore.put_async(self._store, key, content, chunk_size=_PUT_PART_BYTES, max_concurrency=_PUT_PARTS)
        if self._folder is not None:
            await asyncio.to_thread(_sync, self._folder / key, self._folder)

    async def _remove(self, keys: Sequence[str]) -> None:
        with _translated("remove"):
            for key in keys:
                try:
                    await obstore.delete_async(self._store, key)
                except FileNotFoundError:
                    continue


def _content_key(sha256: str) -> str:
    return f"sha256/{sha256[:2]}/{sha256}"


def _part_key(upload_uid: str, part: str) -> str:
    return f"uploads/{upload_uid}/{part}"


def _s3(settings: StoreSettings, bucket: str, prefix: str) -> S3Store:
    given: dict[str, Any] = {}
    if settings.s3_credential_file is not None:
        file = settings.s3_credential_file
        key_id, _, secret = SecretFiles(file.parent).read(file.name).partition(":")
        given |= {"access_key_id": key_id, "secret_access_key": secret}
    if settings.s3_endpoint:
        given["endpoint"] = settings.s3_endpoint
    limit = timedelta(seconds=settings.request_s_max)
    return S3Store(
        bucket,
        prefix=prefix or None,
        region=settings.s3_region,
        # Not every compatible service resolves a bucket as a host name.
        virtual_hosted_style_request=not settings.s3_endpoint,
        client_options={"timeout": limit, "allow_http": settings.s3_endpoint.startswith("http://")},
        retry_config={"max_retries": 5, "retry_timeout": limit},
        **given,
    )


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Any other trouble of the store's is passing, and its own words may hold addresses and keys: they go into no answer.

    Raises:
        StoreUnavailable: from what the library raised.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise StoreUnavailable(f"the artifact store cannot {what}: it is not there", retry_after_s=_RETRY_S) from error
    except (BaseError, OSError) as error:
        raise StoreUnavailable(
            f"the artifact store cannot {what} now ({type(error).__name__})", retry_after_s=_RETRY_S
        ) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path, root: Path) -> None:
    """The library writes a file aside and renames it; force both to disk."""
    for one in (path, *(parent for parent in path.parents if parent.is_relative_to(root))):
        descriptor = os.open(one, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
