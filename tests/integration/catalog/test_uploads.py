"""Files on their way in: parts, interruptions, checks, what is shared and what is swept, and a crash at every step."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from modelyard.catalog.v1 import registry_pb2

from chassis.errors import InvalidArgument
from services.catalog.artifacts.store import ArtifactStore, StoreSettings
from services.catalog.domain.errors import StoreUnavailable
from services.catalog.domain.own.errors import (
    QuotaExceeded,
    UploadNotFound,
    UploadNotStored,
    UploadOffsetWrong,
    UploadTooLarge,
)
from services.catalog.domain.uploads import UploadLimits
from services.catalog.main import MIGRATIONS
from services.catalog.storage.queries import registry as rows
from services.catalog.storage.tables import CHASSIS
from tests.conftest import DatabaseFactory
from tests.infra.object_store import running_s3
from tests.infra.registry import DOUBLER, Registry, digest

DATA = b"0123456789"
RECEIVING, CHECKING = registry_pb2.UPLOAD_STATE_RECEIVING, registry_pb2.UPLOAD_STATE_CHECKING
STORED, REFUSED = registry_pb2.UPLOAD_STATE_STORED, registry_pb2.UPLOAD_STATE_REFUSED
LIMITS = UploadLimits(
    file_bytes_max=1000,
    part_bytes_max=8,
    part_bytes_min=2,
    open_max=2,
    project_bytes_max=1500,
    idle_s=100,
    unused_s=1000,
)


class Dies(Exception):
    """Where a process is killed: nothing after it happens."""


class FaultyStore(ArtifactStore):
    """A real one whose methods die, or are away, where a test says so."""

    def __init__(self, settings: StoreSettings) -> None:
        super().__init__(settings)
        self.before: dict[str, Exception] = {}
        self.after: dict[str, Exception] = {}
        # Called once a put is done.
        self.at_put: Callable[[], Any] | None = None

    @contextmanager
    def _faulty(self, name: str) -> Iterator[None]:
        if name in self.before:
            raise self.before.pop(name)
        yield
        if name in self.after:
            raise self.after.pop(name)

    async def put(self, path: Path, sha256: str) -> None:
        with self._faulty("put"):
            await super().put(path, sha256)
        if self.at_put is not None:
            await self.at_put()

    async def put_part(self, upload_uid: str, part: str, data: bytes) -> None:
        with self._faulty("put_part"):
            await super().put_part(upload_uid, part, data)

    async def remove(self, sha256: str) -> None:
        with self._faulty("remove"):
            await super().remove(sha256)

    async def remove_parts(self, upload_uid: str) -> int:
        with self._faulty("remove_parts"):
            return await super().remove_parts(upload_uid)


@pytest.fixture
def store(tmp_path: Path) -> FaultyStore:
    return FaultyStore(StoreSettings((tmp_path / "store").as_uri()))


@pytest_asyncio.fixture
async def registry(make_database: DatabaseFactory, store: FaultyStore, tmp_path: Path) -> Registry:
    return Registry(await make_database(CHASSIS, MIGRATIONS), store, tmp_path / "checks", LIMITS)


async def test_a_file_comes_in_parts(registry: Registry, store: FaultyStore) -> None:
    """And is in the store once, under its digest; its parts are gone."""
    upload = await registry.begin(DATA)
    assert (upload.state, upload.received_bytes) == (RECEIVING, 0)
    upload = await registry.send(upload, 0, DATA[:8])
    assert (upload.state, upload.received_bytes) == (RECEIVING, 8)
    assert registry.checker.wanted.is_set() is False
    upload = await registry.send(upload, 8, DATA[8:])
    assert (upload.state, upload.received_bytes) == (CHECKING, 10)
    assert registry.checker.wanted.is_set()
    await registry.check()
    upload = await registry.get(upload)
    assert (upload.state, upload.format) == (STORED, "text")
    assert await store.size_of(digest(DATA)) == 10
    assert await store.uploads() == []


async def test_an_empty_file(registry: Registry, store: FaultyStore) -> None:
    assert (await registry.upload(b"")).state == STORED
    assert await store.size_of(digest(b"")) == 0


async def test_a_part_that_came_before_changes_nothing(registry: Registry) -> None:
    """A client that heard no answer sends it again; one that lost its place is told where to go on."""
    upload = await registry.begin(DATA)
    await registry.send(upload, 0, DATA[:4])
    assert (await registry.send(upload, 0, DATA[:4])).received_bytes == 4
    assert (await registry.send(upload, 1, DATA[1:3])).received_bytes == 4
    with pytest.raises(UploadOffsetWrong, match="go on at 4") as caught:
        await registry.send(upload, 6, DATA[6:])
    assert caught.value.metadata["received_bytes"] == "4"
    with pytest.raises(UploadOffsetWrong, match="go on at 4"):
        await registry.send(upload, 2, DATA[2:6])
    assert (await registry.get(upload)).received_bytes == 4


@pytest.mark.parametrize(
    ("offset", "data", "word"),
    [
        (0, b"", "1 to 8 bytes are allowed"),
        (0, b"123456789", "1 to 8 bytes are allowed"),
        (-1, b"1", "at -1"),
        (5, b"123456", "beyond the 10 bytes that were announced"),
        (0, b"1", "all but the last have at least 2"),
    ],
)
async def test_parts_have_bounds(registry: Registry, offset: int, data: bytes, word: str) -> None:
    upload = await registry.begin(DATA)
    with pytest.raises(InvalidArgument, match=word):
        await registry.send(upload, offset, data)


async def test_what_is_announced_has_bounds(registry: Registry) -> None:
    with pytest.raises(UploadTooLarge, match="1000 are allowed"):
        await registry.begin(b"x" * 1001)
    with pytest.raises(InvalidArgument, match="64 lower-case hex digits"):
        await registry.begin(DATA, "A" * 64)
    for data in (b"a" * 10, b"b" * 10):
        await registry.begin(data)
    with pytest.raises(QuotaExceeded, match="2 uploads that are not done; 2 are allowed"):
        await registry.begin(b"c")
    registry.act_as("other")
    await registry.begin(b"d" * 1000)
    with pytest.raises(QuotaExceeded, match="would have 2000 bytes; 1500 are allowed"):
        await registry.begin(b"e" * 1000)


async def test_beginning_twice_begins_once(registry: Registry) -> None:
    first = await registry.begin(DATA, request_id="r1")
    assert await registry.begin(DATA, request_id="r1") == first


async def test_another_content_than_announced_is_refused(registry: Registry, store: FaultyStore) -> None:
    """Nothing of it is kept, and no part is taken any more."""
    upload = await registry.begin(b"abcd", sha256=digest(b"efgh"))
    await registry.send(upload, 0, b"abcd")
    await registry.check()
    upload = await registry.get(upload)
    assert upload.state == REFUSED
    assert digest(b"abcd") in upload.detail
    assert await store.size_of(digest(b"efgh")) is None
    assert await store.uploads() == []
    with pytest.raises(UploadNotStored, match="has not uploaded"):
        await registry.register_uploaded({"a": digest(b"efgh")})


async def test_a_pickle_that_calls_a_shell_is_refused(
    make_database: DatabaseFactory, store: FaultyStore, tmp_path: Path
) -> None:
    """By what it would import; it is never loaded."""
    registry = Registry(await make_database(CHASSIS, MIGRATIONS), store, tmp_path / "checks")
    upload = await registry.upload(pickle.dumps(_Shell()))
    assert upload.state == REFUSED
    assert "system" in upload.detail
    assert await store.uploads() == []
    # Who missed the last answer and sends a part again hears the same.
    assert (await registry.send(upload, 0, b"x")).detail == upload.detail


class _Shell:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("false",)


async def test_a_content_is_stored_once_and_each_project_sends_it(registry: Registry, store: FaultyStore) -> None:
    """Knowing a digest is not having the file; who has it does not send it again."""
    await registry.upload(DATA[:8])
    assert (await registry.begin(DATA[:8])).state == STORED
    registry.act_as("other")
    with pytest.raises(UploadNotStored):
        await registry.register_uploaded({"a": digest(DATA[:8])})
    upload = await registry.begin(DATA[:8])
    assert upload.state == RECEIVING
    puts = _counted(store)
    await registry.send(upload, 0, DATA[:8])
    await registry.check()
    assert (await registry.get(upload)).state == STORED
    assert puts == []


def _counted(store: FaultyStore) -> list[str]:
    puts: list[str] = []

    async def count() -> None:
        puts.append("put")

    store.at_put = count
    return puts


async def test_another_projects_upload_does_not_exist(registry: Registry) -> None:
    upload = await registry.begin(DATA)
    uid = upload.name.rpartition("/")[2]
    registry.act_as("other")
    foreign = registry_pb2.Upload(name=f"projects/other/uploads/{uid}")
    for call in (registry.get(foreign), registry.send(foreign, 0, DATA[:4])):
        with pytest.raises(UploadNotFound):
            await call
    with pytest.raises(UploadNotFound):
        await registry.servicer.DeleteUpload(registry_pb2.DeleteUploadRequest(name=foreign.name), None)
    listed = await registry.servicer.ListUploads(registry_pb2.ListUploadsRequest(parent=registry.parent), None)
    assert not listed.uploads


async def test_uploads_are_listed_newest_first(registry: Registry) -> None:
    names = [(await registry.begin(data)).name for data in (b"aa", b"bb")]
    request = registry_pb2.ListUploadsRequest(parent=registry.parent, page_size=1)
    first = await registry.servicer.ListUploads(request, None)
    request.page_token = first.next_page_token
    second = await registry.servicer.ListUploads(request, None)
    assert [one.name for one in (*first.uploads, *second.uploads)] == names[::-1]
    assert not second.next_page_token


async def test_an_upload_that_is_given_up_leaves_nothing(registry: Registry, store: FaultyStore) -> None:
    upload = await registry.begin(DATA)
    await registry.send(upload, 0, DATA[:4])
    await registry.servicer.DeleteUpload(registry_pb2.DeleteUploadRequest(name=upload.name), None)
    with pytest.raises(UploadNotFound):
        await registry.get(upload)
    assert await store.uploads() != []
    await registry.checker.sweep()
    assert await store.uploads() == []


async def test_what_nobody_goes_on_with_is_swept(registry: Registry, store: FaultyStore) -> None:
    upload = await registry.begin(DATA)
    await registry.send(upload, 0, DATA[:4])
    registry.clock.advance(99)
    assert await registry.checker.sweep() == 0
    # A part is a sign of life.
    await registry.send(upload, 4, DATA[4:6])
    registry.clock.advance(99)
    assert await registry.checker.sweep() == 0
    registry.clock.advance(2)
    assert await registry.checker.sweep() == 1
    assert await store.uploads() == []
    with pytest.raises(UploadNotFound):
        await registry.get(upload)


async def test_parts_of_no_upload_are_swept(registry: Registry, store: FaultyStore) -> None:
    """One that came while its upload was dropped."""
    await store.put_part("of-nobody", "part", b"abc")
    upload = await registry.begin(DATA)
    await registry.send(upload, 0, DATA[:4])
    await registry.checker.sweep()
    assert await store.uploads() == [upload.name.rpartition("/")[2]]


async def test_a_content_that_no_version_holds_is_swept(
    make_database: DatabaseFactory, store: FaultyStore, tmp_path: Path
) -> None:
    """Of each project that had it; one that a version holds stays."""
    registry = Registry(
        await make_database(CHASSIS, MIGRATIONS), store, tmp_path / "checks", UploadLimits(unused_s=1000)
    )
    await registry.register(DOUBLER)
    await registry.upload(b"unused")
    registry.clock.advance(999)
    registry.act_as("other")
    await registry.upload(b"unused")
    registry.clock.advance(2)
    await registry.checker.sweep()
    assert await store.size_of(digest(b"unused")) == 6
    registry.clock.advance(1000)
    await registry.checker.sweep()
    assert await store.size_of(digest(b"unused")) is None
    assert all([await store.size_of(digest(data)) for data in DOUBLER.values()])
    # It comes back like a new one.
    assert (await registry.upload(b"unused")).state == STORED
    assert await store.size_of(digest(b"unused")) == 6


async def test_beginning_an_upload_again_keeps_the_content(registry: Registry, store: FaultyStore) -> None:
    """Whoever says it is going to be used finds it there when it registers."""
    await registry.upload(DATA[:8])
    registry.clock.advance(999)
    await registry.begin(DATA[:8])
    registry.clock.advance(999)
    await registry.checker.sweep()
    assert await store.size_of(digest(DATA[:8])) == 8


async def test_a_process_that_dies_before_a_part_counts(registry: Registry, store: FaultyStore) -> None:
    """The part lies there and does not count; it is sent again, and goes with the upload."""
    upload = await registry.begin(DATA)
    store.after["put_part"] = Dies()
    with pytest.raises(Dies):
        await registry.send(upload, 0, DATA[:8])
    assert (await registry.get(upload)).received_bytes == 0
    await registry.send(upload, 0, DATA[:8])
    await registry.send(upload, 8, DATA[8:])
    await registry.check()
    assert (await registry.get(upload)).state == STORED
    assert await store.uploads() == []


@pytest.mark.parametrize(("when", "where"), [("before", "put"), ("after", "put"), ("before", "remove_parts")])
async def test_a_process_that_dies_while_it_checks(
    registry: Registry, store: FaultyStore, when: str, where: str
) -> None:
    """Another one has the upload when the claim is over, and finishes what was begun."""
    upload = await registry.begin(DATA[:8])
    await registry.send(upload, 0, DATA[:8])
    getattr(store, when)[where] = Dies()
    with pytest.raises(Dies):
        await registry.check()
    registry.clock.advance(61)
    await registry.check()
    assert (await registry.get(upload)).state == STORED
    assert await store.size_of(digest(DATA[:8])) == 8
    registry.clock.advance(101)
    await registry.checker.sweep()
    assert await store.uploads() == []


async def test_a_store_that_is_away_is_waited_for(registry: Registry, store: FaultyStore) -> None:
    """The upload waits; it is neither refused nor lost."""
    upload = await registry.begin(DATA[:8])
    await registry.send(upload, 0, DATA[:8])
    store.before["put"] = StoreUnavailable("away", retry_after_s=1)
    assert await registry.checker.check_some() == 0
    assert (await registry.get(upload)).state == CHECKING
    assert await registry.checker.check_some() == 1
    assert (await registry.get(upload)).state == STORED


async def test_a_disk_that_takes_nothing_is_waited_for(registry: Registry, tmp_path: Path) -> None:
    """It ends neither the check nor the service; the upload is looked at when there is room again."""
    upload = await registry.begin(DATA[:8])
    await registry.send(upload, 0, DATA[:8])
    (tmp_path / "checks").rename(tmp_path / "away")
    assert await registry.checker.check_some() == 0
    assert (await registry.get(upload)).state == CHECKING
    (tmp_path / "away").rename(tmp_path / "checks")
    assert await registry.checker.check_some() == 1
    assert (await registry.get(upload)).state == STORED


async def test_one_process_checks_an_upload(registry: Registry, store: FaultyStore, tmp_path: Path) -> None:
    """While it does, another one leaves it alone."""
    other = Registry(registry.database, store, tmp_path / "others", LIMITS)
    decided: list[int] = []

    async def meanwhile() -> None:
        decided.append(await other.checker.check_some())

    store.at_put = meanwhile
    upload = await registry.upload(DATA[:8])
    assert (upload.state, decided) == (STORED, [0])


async def test_a_content_on_its_way_out_is_waited_for(registry: Registry, store: FaultyStore) -> None:
    """A sweep died after it marked the content: an upload of it waits until it is gone, and then it enters anew."""
    await registry.upload(DATA[:8])
    registry.clock.advance(1001)
    store.after["remove"] = Dies()
    with pytest.raises(Dies):
        await registry.checker.sweep()
    upload = await registry.begin(DATA[:8])
    assert upload.state == RECEIVING
    await registry.send(upload, 0, DATA[:8])
    assert await registry.checker.check_some() == 0
    await registry.checker.sweep()
    assert await registry.checker.check_some() == 1
    assert (await registry.get(upload)).state == STORED
    assert await store.size_of(digest(DATA[:8])) == 8


async def test_a_content_that_is_dropped_while_it_enters_enters_again(registry: Registry, store: FaultyStore) -> None:
    """Whatever order a sweep and a check come in, a content that somebody has is in the store."""
    upload = await registry.begin(DATA[:8])
    await registry.send(upload, 0, DATA[:8])

    async def drop() -> None:
        store.at_put = None
        async with registry.database.unit_of_work() as uow:
            await rows.forget_content(uow.session, digest(DATA[:8]))
        await store.remove(digest(DATA[:8]))

    store.at_put = drop
    assert await registry.checker.check_some() == 0
    assert await registry.checker.check_some() == 1
    assert (await registry.get(upload)).state == STORED
    assert await store.size_of(digest(DATA[:8])) == 8


@pytest.fixture(scope="module")
def s3_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreSettings]:
    with running_s3(tmp_path_factory.mktemp("s3")) as settings:
        yield settings


async def test_in_a_bucket(make_database: DatabaseFactory, s3_settings: StoreSettings, tmp_path: Path) -> None:
    """The same over a real S3 API: parts, a resumed upload, the sweep."""
    store = ArtifactStore(s3_settings)
    registry = Registry(await make_database(CHASSIS, MIGRATIONS), store, tmp_path / "checks", LIMITS)
    upload = await registry.begin(DATA)
    await registry.send(upload, 0, DATA[:4])
    at = (await registry.get(upload)).received_bytes
    await registry.send(upload, at, DATA[at:])
    await registry.check()
    assert (await registry.get(upload)).state == STORED
    assert await store.size_of(digest(DATA)) == 10
    registry.clock.advance(1001)
    await registry.checker.sweep()
    assert await store.size_of(digest(DATA)) is None
    assert await store.uploads() == []
