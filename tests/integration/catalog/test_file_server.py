"""Files over HTTP: ranges and conditions as RFC 9110 has them, by addresses that vouch for themselves."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

import httpx2
import pytest
import pytest_asyncio

from chassis.database import Database
from chassis.http_server import HttpServer
from services.catalog.artifacts.sources import ByteSources, WheelFiles
from services.catalog.artifacts.store import PIECE_BYTES
from services.catalog.domain.downloads import Download, UrlSigner, file_url
from services.catalog.domain.records import ArtifactRecord, License, ModelRecord, Source, VersionRecord
from services.catalog.http.app import create_app
from services.catalog.main import MIGRATIONS
from services.catalog.settings import CatalogSettings
from services.catalog.storage.queries import models as stored
from services.catalog.storage.tables import CHASSIS
from services.catalog.usecases.downloads import DownloadReader, find_file
from services.catalog.usecases.prepare_models import prepare_models
from services.catalog.usecases.put_models import put_models
from services.catalog.usecases.sync_content import sync_content
from tests.clock import ManualClock
from tests.infra.instances import wait_until
from tests.integration.catalog.build import ARTIFACT, MODEL_NAME, write_content

SIZE = int(str(ARTIFACT["size_bytes"]))
ETAG = f'"{ARTIFACT["sha256"]}"'
SIGNER = UrlSigner(b"k" * 32)
HUGE = ModelRecord(
    publisher="acme",
    model="huge",
    collection="curated",
    display_name="Huge",
    license=License(id="MIT"),
    tasks=(),
    deployment_options=("MANAGED",),
    usability="RUNS_HERE",
    sources=(Source(location="a test", date="2026-01-01"),),
    versions=(
        VersionRecord(
            version="1",
            position=1,
            artifacts=(ArtifactRecord(name="model.bin", sha256="ab" * 32, size_bytes=1 << 40, uri="endless:"),),
        ),
    ),
)


class Endless:
    """A place that has more than anyone reads; `given` counts its pieces, `closed` its ends."""

    def __init__(self) -> None:
        self.given = self.closed = 0

    async def read(self, file: Download, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        try:
            for _ in range(start, stop, PIECE_BYTES):
                await asyncio.sleep(0)  # a real place is waited for
                yield b"x" * PIECE_BYTES
                self.given += 1
        finally:
            self.closed += 1


@dataclass
class Files:
    """The HTTP face over a small catalog, and addresses in it."""

    clock: ManualClock
    file: Download
    huge_file: Download
    base: str
    reader: DownloadReader
    endless: Endless

    def url(self, file: Download | None = None, *, lifetime_s: float = 60) -> str:
        file = file or self.file
        query = SIGNER.query(file, "user:ann", self.clock.now() + timedelta(seconds=lifetime_s))
        return file_url(self.base, file, query)

    async def get(self, url: str = "", method: str = "GET", **headers: str) -> httpx2.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with httpx2.AsyncClient() as client:
            return await client.request(method, url or self.url(), headers=sent)


@pytest_asyncio.fixture(scope="module")
async def files(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Files]:
    """The HTTP face over a small catalog; at most two downloads run."""
    folder, clock, endless = tmp_path_factory.mktemp("files"), ManualClock(), Endless()
    database = Database(f"sqlite+aiosqlite:///{folder / 'catalog.db'}", CHASSIS)
    await database.migrate(MIGRATIONS)
    await sync_content(database, clock, write_content(folder / "content"))
    async with database.unit_of_work() as uow:
        await put_models(uow, database, clock.now(), "test", prepare_models([HUGE]))
    file = await found(database, MODEL_NAME, str(ARTIFACT["name"]))
    huge_file = await found(database, "publishers/acme/models/huge", "model.bin")
    reader = DownloadReader(ByteSources({"file": WheelFiles(), "endless": endless}), running_max=2)
    settings = CatalogSettings(data_dir=folder, stop_s_max=2)
    app = create_app(database, clock, SIGNER, reader)
    server = HttpServer(app, settings.http_address, settings, connections_max=100)
    running = asyncio.create_task(server.serve())
    yield Files(clock, file, huge_file, server.url, reader, endless)
    server.stop(at_once=True)
    await running
    await database.dispose()


async def found(database: Database, model_name: str, artifact: str) -> Download:
    async with database.reader() as session:
        model = await stored.model(session, model_name)
        version = await stored.version(session, f"{model_name}/versions/1")
    assert model is not None
    assert version is not None
    return find_file(model, version, artifact, for_service=False)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def test_a_whole_file(files: Files) -> None:
    """Its length, its digest as its tag, and nothing that a browser would run."""
    answer = await files.get()
    assert (answer.status_code, digest(answer.content)) == (200, files.file.sha256)
    said = {name: answer.headers[name] for name in ("content-length", "etag", "accept-ranges", "content-type")}
    assert said == {
        "content-length": str(SIZE),
        "etag": ETAG,
        "accept-ranges": "bytes",
        "content-type": "application/octet-stream",
    }
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''tokenizer.json"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_ranges_make_the_whole(files: Files) -> None:
    """A download that broke goes on from the bytes it has."""
    first = await files.get(range="bytes=0-99999")
    rest = await files.get(range="bytes=100000-", if_range=ETAG)
    assert [answer.status_code for answer in (first, rest)] == [206, 206]
    assert first.headers["content-range"] == f"bytes 0-99999/{SIZE}"
    assert rest.headers["content-range"] == f"bytes 100000-{SIZE - 1}/{SIZE}"
    assert digest(first.content + rest.content) == files.file.sha256


async def test_the_last_bytes(files: Files) -> None:
    answer = await files.get(range="bytes=-5")
    assert (answer.status_code, answer.headers["content-range"]) == (206, f"bytes {SIZE - 5}-{SIZE - 1}/{SIZE}")
    assert len(answer.content) == 5


async def test_a_range_of_another_file_gets_the_whole(files: Files) -> None:
    """If-Range: what was begun is not this file, so it begins anew."""
    answer = await files.get(range="bytes=5-", if_range='"another"')
    assert (answer.status_code, len(answer.content)) == (200, SIZE)


async def test_a_range_behind_the_end(files: Files) -> None:
    answer = await files.get(range=f"bytes={SIZE}-")
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{SIZE}")
    assert answer.json()["error"]["reason"] == "RANGE_NOT_SATISFIABLE"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if_none_match": ETAG}, 304),
        ({"if_none_match": f'W/{ETAG}, "other"'}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": '"other"'}, 200),
        ({"if_match": ETAG}, 200),
        ({"if_match": '"other"'}, 412),
    ],
)
async def test_conditions(files: Files, headers: dict[str, str], status: int) -> None:
    answer = await files.get(**headers)
    assert (answer.status_code, len(answer.content)) == (status, SIZE if status == 200 else 0)
    assert answer.headers["etag"] == ETAG


async def test_head_says_what_get_would(files: Files) -> None:
    """Whole, whatever range it names: ranges are GET's."""
    answer = await files.get(method="HEAD", range="bytes=0-1")
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, str(SIZE), b"")


async def test_worthless_addresses(files: Files) -> None:
    """An expired one says so; a forged one says nothing about what there is."""
    expired = await files.get(files.url(lifetime_s=-1))
    unsigned = await files.get(files.url().partition("?")[0])
    elsewhere = await files.get(files.url().replace(files.file.version_uid, "no-such-version"))
    refusals = [(answer.status_code, answer.json()["error"]["reason"]) for answer in (expired, unsigned, elsewhere)]
    assert refusals == [(403, "DOWNLOAD_URL_EXPIRED"), (403, "DOWNLOAD_URL_INVALID"), (403, "DOWNLOAD_URL_INVALID")]
    assert unsigned.json() == elsewhere.json()


async def test_nothing_else_is_served(files: Files) -> None:
    """No other path, and no method that changes anything."""
    other = await files.get(f"{files.base}/v1/models")
    posted = await files.get(method="POST")
    assert [(answer.status_code, answer.json()["error"]["reason"]) for answer in (other, posted)] == [
        (404, "NOT_FOUND"),
        (405, "INVALID_ARGUMENT"),
    ]


class SlowClient:
    """A client that asks, and reads no more than its socket holds until it is told to."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        self.socket.connect((where.hostname, where.port))
        self.socket.sendall(f"GET {where.path}?{where.query} HTTP/1.1\r\nhost: x\r\n\r\n".encode())


async def test_slow_clients_hold_little_and_have_few_places(files: Files) -> None:
    """One piece each is read ahead; when all places are taken the next one is told to come again; a client that
    leaves gives its place back at once."""
    clients = [SlowClient(files.url(files.huge_file)) for _ in range(2)]
    await wait_until(lambda: files.reader.running == 2)
    await wait_until(lambda: files.endless.given == 2)
    busy = await files.get()
    assert (busy.status_code, busy.json()["error"]["reason"], busy.headers["retry-after"]) == (
        503,
        "DOWNLOADS_BUSY",
        "2",
    )
    assert files.endless.given == 2
    for client in clients:
        client.socket.close()
    await wait_until(lambda: files.reader.running == 0 and files.endless.closed == 2)
    assert (await files.get()).status_code == 200
