"""All hubs that this process reads: one session, one folder of tokens, one set of limits."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack

from chassis.secret_files import SecretFiles, SecretUnusable
from services.catalog.domain.errors import HubCredentialUnusable
from services.catalog.sources.hub.client import HubBounds, hub_session
from services.catalog.sources.hub.files import HubFile, HubFiles
from services.catalog.sources.hub.hub import Hub, HubLimits, HubSource


class Hubs:
    """Opens hubs as they are configured, and their files by the address that artifacts carry; closed at the end.

    Args:
        keys: Where tokens are, by the names that sources give.
    """

    def __init__(self, keys: SecretFiles, bounds: HubBounds, limits: HubLimits) -> None:
        self._keys = keys
        self._bounds = bounds
        self._limits = limits
        self._files = HubFiles(bounds)
        self._session = ExitStack()
        self._session.enter_context(hub_session(bounds))

    async def close(self) -> None:
        """What still waits for a hub is told."""
        self._session.close()
        await self._files.close()

    def open(self, source: HubSource) -> Hub:
        """A hub as a source names it."""
        return Hub(source, self._token(source.credential), self._files, self._bounds, self._limits)

    def read(self, uri: str, *, offset: int, size_bytes: int, sha256: str) -> AsyncGenerator[bytes, None]:
        """An artifact's bytes from a place on, as `HubFiles.read` gives them; its digest is for the reader to check.

        Args:
            uri: Of the artifact, `hub:…`.

        Raises:
            ValueError: another kind of URI.
            HubCredentialUnusable: the token it names cannot be read.
        """
        file = HubFile.from_uri(uri)
        token = self._token(file.credential)()
        return self._files.read(file, token, offset=offset, size_bytes=size_bytes, sha256=sha256)

    def _token(self, name: str) -> Callable[[], str]:
        def read() -> str:
            if not name:
                return ""
            try:
                return self._keys.read(name)
            except SecretUnusable as unusable:
                raise HubCredentialUnusable(str(unusable)) from None

        return read
