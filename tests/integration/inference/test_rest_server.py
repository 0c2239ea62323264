"""The REST server over real sockets: it reports a client that hangs up while it waits, and it applies back-pressure."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from chassis.http_server import HttpServer, until_disconnect
from services.inference.http.answers import EventStream
from services.inference.settings import InferenceSettings
from tests.integration.inference.build import until

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
EVENT_BYTES = 4096


class Waiting:
    """An application that waits for ever, before its answer or in the middle of it, and knows whether it still does."""

    def __init__(self, *, after_events: int) -> None:
        self._after_events = after_events
        self.is_running = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._after_events:
            await EventStream(self._events(), dict)(scope, receive, send)
        else:
            await until_disconnect(receive, self._wait())

    async def _events(self) -> AsyncGenerator[bytes, None]:
        for _ in range(self._after_events):
            yield b"data: x\n\n"
        await self._wait()

    async def _wait(self) -> None:
        self.is_running = True
        try:
            await asyncio.Event().wait()
        finally:
            self.is_running = False


class Endless:
    """An application that streams events for ever and counts those that were delivered."""

    def __init__(self) -> None:
        self.delivered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await EventStream(self._events(), dict)(scope, receive, send)

    async def _events(self) -> AsyncGenerator[bytes, None]:
        while True:
            yield b"x" * EVENT_BYTES
            self.delivered += 1
            await asyncio.sleep(0)  # an engine's stream lets others run, too


@contextlib.asynccontextmanager
async def serving(app: Any, folder: Path) -> AsyncIterator[tuple[str, int]]:
    """The server as inference configures it; its address."""
    settings = InferenceSettings(data_dir=folder, cluster_secret_file=folder / "secret", stop_s_max=2)
    server = HttpServer(app, settings.rest_address, settings, connections_max=settings.connections_max)
    running = asyncio.create_task(server.serve())
    try:
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        yield host, int(port)
    finally:
        server.stop(at_once=True)
        await running


@pytest.mark.parametrize("after_events", [0, 1], ids=["before the answer", "in the middle of it"])
async def test_a_client_that_hangs_up_while_it_waits_ends_the_work(tmp_path: Path, after_events: int) -> None:
    """At once: nothing has to be written for it to be noticed."""
    app = Waiting(after_events=after_events)
    async with serving(app, tmp_path) as address:
        _, writer = await asyncio.open_connection(*address)
        writer.write(REQUEST)
        await until(lambda: app.is_running)
        writer.close()
        await until(lambda: not app.is_running, timeout_s=2)
        await writer.wait_closed()


async def test_a_client_that_does_not_read_holds_its_stream_up(tmp_path: Path) -> None:
    """And each event that counts as delivered has left the process: with the server frozen, all of them can be read."""
    app = Endless()
    async with serving(app, tmp_path) as address:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
            client.connect(address)
            client.sendall(REQUEST)
            await until(lambda: app.delivered)
            await _stands_still(app)
            delivered = app.delivered
            # From here on nothing is awaited, so the server, which runs on this very loop, can send no more.
            client.settimeout(2)
            read = 0
            while read < delivered * EVENT_BYTES:
                read += client.recv(1 << 16).count(b"x")
            assert app.delivered == delivered


async def test_a_client_that_reads_again_gets_the_rest(tmp_path: Path) -> None:
    app = Endless()
    async with serving(app, tmp_path) as address:
        reader, writer = await asyncio.open_connection(*address, limit=1024)
        writer.write(REQUEST)
        await until(lambda: app.delivered)
        await _stands_still(app)
        held = app.delivered
        read = 0
        while read < (held + 50) * EVENT_BYTES:
            read += (await reader.read(1 << 16)).count(b"x")
        assert app.delivered > held
        writer.close()
        await writer.wait_closed()


async def _stands_still(app: Endless) -> None:
    seen: list[int] = []

    def stands_still() -> bool:
        seen.append(app.delivered)
        return len(seen) >= 50 and len(set(seen[-50:])) == 1

    await until(stands_still)
