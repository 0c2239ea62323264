"""Files of a hub at one commit as streams of bytes, from any place on, through whatever interrupts them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from urllib.parse import quote, unquote, urljoin, urlsplit

import httpx2
from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError

from services.catalog.domain.errors import HubContentChanged, HubUnavailable
from services.catalog.sources.hub.client import HubBounds, check_pause, pause_asked_s
from services.catalog.sources.hub.refusals import problem_from_hub

_PIECE_BYTES = 1 << 20
_URI = re.compile(
    r"hub:(?P<endpoint>https?://.+?)/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[0-9a-f]{40})/(?P<rest>.+)"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
# A link to the CDN holds for a while; when it has run out, the hub gives another one.
_LINK_RAN_OUT = {401, 403, 404, 410}
_BUSY = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file at one commit.

    Attributes:
        endpoint: Base URL of the hub, without a slash at its end.
        repository: `ORG/NAME`.
        revision: The commit, 40 hexadecimal digits.
        path: Inside the repository.
        credential: Name of the token to show; empty shows none.
    """

    endpoint: str
    repository: str
    revision: str
    path: str
    credential: str = ""

    @property
    def url(self) -> str:
        return hf_hub_url(self.repository, self.path, revision=self.revision, endpoint=self.endpoint)

    @property
    def uri(self) -> str:
        """Where an artifact lies, for services only."""
        return f"hub:{self.url}" + (f"?credential={quote(self.credential)}" if self.credential else "")

    @classmethod
    def from_uri(cls, uri: str) -> HubFile:
        """Inverse of `uri`.

        Raises:
            ValueError: another kind of URI.
        """
        found = _URI.fullmatch(uri)
        if found is None:
            raise ValueError(f"{uri!r} names no file of a hub")
        path, _, credential = found["rest"].partition("?credential=")
        return cls(found["endpoint"], found["repository"], found["revision"], unquote(path), unquote(credential))


class HubFiles:
    """Reads files; one client for all, closed at the end.

    Args:
        bounds: How patient it is.
    """

    def __init__(self, bounds: HubBounds) -> None:
        self._bounds = bounds
        self._http = httpx2.AsyncClient(timeout=bounds.timeout_s, follow_redirects=True)

    async def close(self) -> None:
        await self._http.aclose()

    async def read(
        self, file: HubFile, token: str, *, offset: int, size_bytes: int, sha256: str = "", end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The file's bytes from `offset` to its end, or to `end`, in order; whoever has them all checks their digest.

        What breaks off goes on where it was. Where the hub tells a digest, another than `sha256` is refused before a
        byte comes.

        Args:
            token: Shown to the hub alone, never to its CDN; empty shows none.
            size_bytes: Of the whole file.

        Raises:
            HubModelGated, HubModelNotFound: the files are not given to this token, or not there.
            HubContentChanged: the hub has another file under this name.
            HubUnavailable: given up.
        """
        at, stop, failures = offset, size_bytes if end is None else min(end, size_bytes), 0
        while at < stop:
            location = await self._locate(file, token, size_bytes, sha256)
            came, why, asked_s = at, "ended early", None
            try:
                async with self._http.stream(
                    "GET", location, headers=_headers(file, location, token, at, stop)
                ) as answer:
                    if answer.status_code in _LINK_RAN_OUT | _BUSY:
                        why, asked_s = f"answers {answer.status_code}", pause_asked_s(answer.headers)
                    else:
                        _check(answer, file, size_bytes)
                        # Without a part of its own the whole file comes, and what is known already is passed over.
                        skip = 0 if answer.status_code == 206 else at
                        async for piece in answer.aiter_raw(_PIECE_BYTES):
                            fresh = piece[skip : skip + stop - at]
                            skip = max(0, skip - len(piece))
                            at += len(fresh)
                            if fresh:
                                yield fresh
                            if at >= stop:
                                return
            except httpx2.TransportError as lost:
                why = f"was lost ({type(lost).__name__})"
            failures = 1 if at > came else failures + 1
            check_pause(f"the hub at {file.endpoint}", why, failures, asked_s, self._bounds)
            await asyncio.sleep(self._bounds.pause_s(failures) if asked_s is None else asked_s)

    async def read_small(self, file: HubFile, token: str, *, size_bytes: int, size_bytes_max: int) -> bytes:
        """A whole small file.

        Raises:
            HubContentChanged: it is larger than allowed, or shorter than the hub said.
        """
        if size_bytes > size_bytes_max:
            raise HubContentChanged(
                f"{file.path!r} of {file.repository} has {size_bytes} bytes; at most {size_bytes_max} are read"
            )
        return b"".join([piece async for piece in self.read(file, token, offset=0, size_bytes=size_bytes)])

    async def _locate(self, file: HubFile, token: str, size_bytes: int, sha256: str) -> str:
        """Where the bytes are now: at the hub, or at its CDN for a while."""
        try:
            found = await asyncio.to_thread(
                get_hf_file_metadata,
                file.url,
                token=token or False,
                timeout=self._bounds.timeout_s,
                endpoint=file.endpoint,
            )
        except HfHubHTTPError as error:
            raise problem_from_hub(error, file.repository, file.endpoint) from error
        named = f"{file.path!r} of {file.repository} at {file.revision[:12]}"
        if found.commit_hash not in (None, file.revision):
            raise HubContentChanged(f"{named} comes from commit {str(found.commit_hash)[:12]}; import the model anew")
        if found.size not in (None, size_bytes):
            raise HubContentChanged(f"{named} has {found.size} bytes now, {size_bytes} before; import the model anew")
        if sha256 and found.etag and _SHA256.fullmatch(found.etag) and found.etag != sha256:
            raise HubContentChanged(f"{named} has digest {found.etag} now, {sha256} before; import the model anew")
        return urljoin(file.url, found.location)


def _headers(file: HubFile, location: str, token: str, at: int, stop: int) -> dict[str, str]:
    # Compressed on the way, a range would count other bytes.
    headers = {"accept-encoding": "identity", "range": f"bytes={at}-{stop - 1}"}
    if token and urlsplit(location)[:2] == urlsplit(file.url)[:2]:
        headers["authorization"] = f"Bearer {token}"
    return headers


def _check(answer: httpx2.Response, file: HubFile, size_bytes: int) -> None:
    if answer.status_code == 206:
        whole = answer.headers.get("content-range", "").rpartition("/")[2]
        if whole not in ("", "*", str(size_bytes)):
            raise HubContentChanged(f"{file.path!r} of {file.repository} has {whole} bytes now, {size_bytes} before")
    elif answer.status_code != 200:
        raise HubUnavailable(
            f"the hub at {file.endpoint} answers {answer.status_code} for {file.path!r}; try again later"
        )
