"""All hubs that this process reads: one session, one folder of tokens, one set of limits."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing

from chassis.secret_files import SecretFiles, SecretUnusable
from services.catalog.domain.downloads import Download
from services.catalog.domain.errors import HubCredentialUnusable
from services.catalog.sources.hub.client import HubBounds, hub_session
from services.catalog.sources.hub.files import HubFile, HubFiles
from services.catalog.sources.hub.hub import Hub, HubLimits, HubSource

# Scheme of the URIs of artifacts that lie at a hub.
HUB = "hub"


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

    async def read(self, file: Download, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Bytes of an artifact that lies at a hub, as `HubFiles.read` gives them; whoever has them all checks the digest.

        Raises:
            HubCredentialUnusable: the token it names cannot be read.
            Problem: see `HubFiles.read`.
        """
        at_hub = HubFile.from_uri(file.uri)
        pieces = self._files.read(
            at_hub,
            self._token(at_hub.credential)(),
            offset=start,
            end=stop,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
        )
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    def _token(self, name: str) -> Callable[[], str]:
        def read() -> str:
            if not name:
                return ""
            try:
                return self._keys.read(name)
            except SecretUnusable as unusable:
                raise HubCredentialUnusable(str(unusable)) from None

        return read
