"""Which bytes a range asks for, which addresses are ours, and which versions give their files out."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from services.catalog.domain.downloads import Download, UrlSigner, byte_range, file_url
from services.catalog.domain.errors import (
    ArtifactNotFound,
    DownloadUrlExpired,
    DownloadUrlInvalid,
    RangeNotSatisfiable,
    WeightsNotHere,
    WeightsNotOffered,
)
from services.catalog.usecases.downloads import find_file
from tests.clock import START

KEY = b"k" * 32
FILE = Download(
    model_version="publishers/acme/models/talker/versions/1",
    version_uid="version-uid",
    project_uid="",
    artifact="1_Pooling/config.json",
    sha256="ab" * 32,
    size_bytes=100,
    uri="file:///x",
)
EXPIRES = START + timedelta(hours=1)


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-", (0, 100)),
        ("bytes=0-0", (0, 1)),
        ("bytes=10-19", (10, 20)),
        ("bytes=99-", (99, 100)),
        ("bytes=99-5000", (99, 100)),
        ("bytes=-1", (99, 100)),
        ("bytes=-5000", (0, 100)),
        ("Bytes = 3-4", (3, 5)),
    ],
)
def test_a_range(header: str, part: tuple[int, int]) -> None:
    assert byte_range(header, 100) == part


@pytest.mark.parametrize(
    "header",
    ["", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-4", "bytes=0-1,5-6", "lines=0-1", "bytes=+1-2", "bytes=1"],
)
def test_what_is_no_range_of_ours_asks_for_all(header: str) -> None:
    """A server may ignore several ranges, and has to ignore what it does not understand."""
    assert byte_range(header, 100) is None


@pytest.mark.parametrize(("header", "size"), [("bytes=100-", 100), ("bytes=-0", 100), ("bytes=0-", 0)])
def test_a_range_behind_the_end(header: str, size: int) -> None:
    """The refusal says how large the file is."""
    with pytest.raises(RangeNotSatisfiable) as refused:
        byte_range(header, size)
    assert refused.value.size_bytes == size


def query(file: Download = FILE, key: bytes = KEY) -> dict[str, str]:
    return UrlSigner(key).query(file, "user:ann", EXPIRES)


def test_an_address_vouches_for_itself() -> None:
    """What it says after `?` is all that is needed; it names its holder."""
    url = urlsplit(file_url("https://files.example.com", FILE, query()))
    assert url.path == "/v1/versions/version-uid/files/1_Pooling/config.json"
    said = {name: values[0] for name, values in parse_qs(url.query).items()}
    assert UrlSigner(KEY).check(FILE, said, EXPIRES - timedelta(seconds=1)) == "user:ann"


@pytest.mark.parametrize(
    "other",
    [
        replace(FILE, version_uid="another"),
        replace(FILE, artifact="config.json"),
        replace(FILE, sha256="cd" * 32),
        replace(FILE, project_uid="a project"),
    ],
    ids=["version", "file", "digest", "project"],
)
def test_it_opens_one_file_only(other: Download) -> None:
    with pytest.raises(DownloadUrlInvalid):
        UrlSigner(KEY).check(other, query(), START)


@pytest.mark.parametrize(
    "changes",
    [
        {"expires": str(2**40)},
        {"expires": ""},
        {"expires": "soon"},
        {"holder": "user:eve"},
        {"signature": ""},
        {"signature": "ä"},
        {"signature": "A" * 43},
    ],
)
def test_an_altered_address_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(DownloadUrlInvalid):
        UrlSigner(KEY).check(FILE, {**query(), **changes}, START)


def test_another_platforms_address_is_refused() -> None:
    with pytest.raises(DownloadUrlInvalid):
        UrlSigner(KEY).check(FILE, query(key=b"o" * 32), START)


def test_fields_are_not_confused_by_their_joints() -> None:
    """A part of the holder never passes as a part of the time."""
    said = query()
    moved = {**said, "holder": said["holder"] + said["expires"][:1], "expires": said["expires"][1:]}
    with pytest.raises(DownloadUrlInvalid):
        UrlSigner(KEY).check(FILE, moved, START)


def test_an_expired_address_is_refused() -> None:
    """From its second on."""
    with pytest.raises(DownloadUrlExpired):
        UrlSigner(KEY).check(FILE, query(), EXPIRES)


def test_a_key_has_256_bits() -> None:
    with pytest.raises(ValueError, match="31 bytes"):
        UrlSigner(b"k" * 31)


class Row:
    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


STORED = {"name": "model.gguf", "sha256": "ab" * 32, "size_bytes": 7, "uri": "file:///x"}


def rows(options: list[str], artifacts: list[dict[str, Any]]) -> Any:
    model: Any = Row(facts={"deployment_options": options}, project_uid="", usability_detail="no GPU here")
    version: Any = Row(name=FILE.model_version, uid="version-uid", artifacts=artifacts)
    return model, version


def test_a_managed_version_gives_its_files_out() -> None:
    file = find_file(*rows(["MANAGED"], [STORED]), "model.gguf", for_service=False)
    assert (file.sha256, file.size_bytes, file.uri) == ("ab" * 32, 7, "file:///x")


def test_a_serverless_only_one_does_not() -> None:
    """But the pool that serves it is the platform's own."""
    with pytest.raises(WeightsNotOffered, match="serverless"):
        find_file(*rows(["SERVERLESS"], [STORED]), "model.gguf", for_service=False)
    assert find_file(*rows(["SERVERLESS"], [STORED]), "model.gguf", for_service=True).size_bytes == 7


@pytest.mark.parametrize("artifacts", [[], [{**STORED, "uri": ""}]], ids=["no files", "not installed"])
def test_files_that_are_not_here(artifacts: list[dict[str, Any]]) -> None:
    with pytest.raises(WeightsNotHere, match="no GPU here"):
        find_file(*rows(["MANAGED"], artifacts), "model.gguf", for_service=False)


def test_a_file_that_there_is_not() -> None:
    """The refusal names those there are."""
    with pytest.raises(ArtifactNotFound, match=r"it has model\.gguf"):
        find_file(*rows(["MANAGED"], [STORED]), "model.onnx", for_service=False)
