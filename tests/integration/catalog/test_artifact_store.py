"""Contents by digest, in a folder and in a real S3 API."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.catalog.artifacts.store import PIECE_BYTES, ArtifactStore, StoreSettings
from services.catalog.domain.errors import StoreUnavailable, UploadDigestWrong
from tests.infra.object_store import running_s3

CONTENT = b"weights, or what passes for them"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
# Put in several parts and read in several pieces.
LARGE = os.urandom(2**20) * 17 + b"end"
LARGE_DIGEST = hashlib.sha256(LARGE).hexdigest()


@pytest.fixture(scope="module")
def s3_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreSettings]:
    with running_s3(tmp_path_factory.mktemp("s3")) as settings:
        yield settings


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "folder":
        return ArtifactStore(StoreSettings((tmp_path / "store").as_uri()))
    return ArtifactStore(request.getfixturevalue("s3_settings"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


async def whole(store: ArtifactStore, sha256: str, start: int, stop: int) -> bytes:
    return b"".join([piece async for piece in store.read(sha256, start, stop)])


async def test_what_is_put_can_be_read(store: ArtifactStore, file: Path) -> None:
    """All of it or any part; putting it again changes nothing."""
    assert await store.size_of(LARGE_DIGEST) is None
    for _ in range(2):
        await store.put(file, DIGEST)
        assert await store.size_of(DIGEST) == len(CONTENT)
    assert await whole(store, DIGEST, 0, len(CONTENT)) == CONTENT
    assert await whole(store, DIGEST, 3, 7) == CONTENT[3:7]
    assert await whole(store, DIGEST, 5, 5) == b""


async def test_a_large_file(store: ArtifactStore, file: Path) -> None:
    """It travels in parts and comes in pieces of bounded size."""
    file.write_bytes(LARGE)
    await store.put(file, LARGE_DIGEST)
    pieces = [piece async for piece in store.read(LARGE_DIGEST, 1, len(LARGE))]
    assert b"".join(pieces) == LARGE[1:]
    assert max(map(len, pieces)) == PIECE_BYTES
    await store.remove(LARGE_DIGEST)


async def test_another_content_under_a_digest_is_refused(store: ArtifactStore, file: Path) -> None:
    """Before anything is written."""
    with pytest.raises(UploadDigestWrong, match=DIGEST):
        await store.put(file, "ab" * 32)
    assert await store.size_of("ab" * 32) is None


async def test_a_removed_content_is_gone(store: ArtifactStore, file: Path) -> None:
    """Removing it twice is removing it; whoever still asks for it is told that it is not there."""
    await store.put(file, DIGEST)
    for _ in range(2):
        await store.remove(DIGEST)
    assert await store.size_of(DIGEST) is None
    with pytest.raises(StoreUnavailable, match="it is not there"):
        await whole(store, DIGEST, 0, 3)


async def test_parts_of_uploads(store: ArtifactStore) -> None:
    """A part that is put again replaces the first; one upload's parts go together, and no other's."""
    for part, data in (("0-a", b"first"), ("5-b", b"second"), ("0-a", b"third")):
        await store.put_part("one", part, data)
    await store.put_part("other", "0-a", b"mine")
    assert [await store.read_part("one", part) for part in ("0-a", "5-b")] == [b"third", b"second"]
    assert await store.remove_parts("one") == 2
    assert await store.remove_parts("one") == 0
    assert await store.read_part("other", "0-a") == b"mine"


async def test_a_store_that_is_away() -> None:
    """A passing refusal that holds no address and no credential."""
    settings = StoreSettings("s3://bucket", s3_endpoint="http://127.0.0.1:1", request_s_max=0.1)
    with pytest.raises(StoreUnavailable) as refused:
        await ArtifactStore(settings).size_of(DIGEST)
    assert "127.0.0.1" not in refused.value.message


@pytest.mark.parametrize("url", ["artifacts", "https://bucket.example.com", "gs://bucket"])
def test_other_addresses_are_no_store(url: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        ArtifactStore(StoreSettings(url))


def test_a_folder_is_its_owners(tmp_path: Path) -> None:
    """What lies in it may be a project's own."""
    ArtifactStore(StoreSettings((tmp_path / "store").as_uri()))
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
