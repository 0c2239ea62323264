"""A real nats-server with the platform's whole topology and identities, on a free port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from nats.aio.client import Client

from chassis.bus import Bus
from embedded.nats_identity import NatsIdentities, Permissions, write_secret
from embedded.nats_server import NatsServer, NatsServerSettings
from embedded.topology import (
    BUCKETS,
    PROVISIONER,
    apply_topology,
    issue_service_credentials,
    subscriber_permissions,
)

_STREAMS = ("CATALOG", "DEPLOY", "BILLING", "USAGE", *(f"KV_{bucket}" for bucket in BUCKETS))
_TESTER = "tester"


class Broker:
    """The server, and ways to connect to it as each identity.

    `url` and `credentials["deploy"]` are what a service's settings take; `bus_as("deploy")` is connected.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.identities = NatsIdentities.create(folder / "identities")
        self.server = NatsServer(
            folder / "nats", self.identities, NatsServerSettings(file_bytes_max=8 << 30), tied=True
        )
        self.credentials: dict[str, Path] = {}
        self._opened: list[Bus | Client] = []
        self._tester: Bus | None = None

    @property
    def url(self) -> str:
        return self.server.url

    async def start(self) -> None:
        await self.server.start()
        self.credentials = issue_service_credentials(self.identities, self.folder / "credentials")
        self.credentials[_TESTER] = self.credential(_TESTER, Permissions(publish_allow=(">",), subscribe_allow=(">",)))
        provisioner = await self.bus_as(PROVISIONER)
        await apply_topology(provisioner.jetstream)
        await self.close_opened()

    def credential(self, name: str, permissions: Permissions, expires_s: float | None = None) -> Path:
        """Write a credential with these permissions."""
        path = self.folder / "credentials" / f"{name}.creds"
        write_secret(path, self.identities.issue_user(name, permissions, expires_s).encode())
        return path

    def subscriber_credential(self, project_uid: str) -> Path:
        """Write the credential of a dashboard of one project."""
        return self.credential(f"subscriber-{project_uid}", subscriber_permissions(project_uid))

    async def bus_as(self, name: str) -> Bus:
        """A bus of one identity, closed after the test."""
        bus = await Bus.connect(self.url, self.credentials[name], name)
        self._opened.append(bus)
        return bus

    async def client_with(self, credential: Path | None, inbox: str, refusals: list[str]) -> Client:
        """A bare client, closed after the test; what the server refuses is added to `refusals`."""

        async def note(error: Exception) -> None:
            refusals.append(str(error))

        client = Client()
        self._opened.append(client)
        await client.connect(
            self.url,
            user_credentials=str(credential) if credential else None,
            inbox_prefix=f"_INBOX.{inbox}",
            error_cb=note,
            allow_reconnect=False,
        )
        return client

    async def tester(self) -> Bus:
        """A bus that may do everything, for looking behind the scenes."""
        if self._tester is None:
            self._tester = await self.bus_as(_TESTER)
        return self._tester

    async def clear(self) -> None:
        """Empty every stream and bucket."""
        tester = await self.tester()
        for stream in _STREAMS:
            await tester.jetstream.purge_stream(stream)
        await self.close_opened()

    async def close_opened(self) -> None:
        """Close what was opened here."""
        self._tester = None
        while self._opened:
            opened = self._opened.pop()
            await opened.close()
            if isinstance(opened, Client) and opened._transport is not None:
                # The library leaves the socket of a refused connection to the garbage collector.
                opened._transport.close()
                await asyncio.sleep(0)

    async def stop(self) -> None:
        await self.close_opened()
        await self.server.stop()


@asynccontextmanager
async def running_broker(folder: Path) -> AsyncIterator[Broker]:
    """A broker for the length of the block."""
    broker = Broker(folder)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()
