"""Secrets in files, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from chassis.secret_files import SecretFiles, SecretUnusable


def write(folder: Path, name: str, content: bytes, mode: int = 0o600) -> Path:
    path = folder / name
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_secret_is_what_its_file_holds(tmp_path: Path) -> None:
    write(tmp_path, "azure-east.key", b"  s3cret\n")
    assert SecretFiles(tmp_path).read("azure-east.key") == "s3cret"


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    """Replaced as a whole, as tools that rotate secrets do it."""
    secrets = SecretFiles(tmp_path)
    write(tmp_path, "key", b"old")
    assert [secrets.read("key"), secrets.read("key")] == ["old", "old"]
    write(tmp_path, "new", b"new").replace(tmp_path / "key")
    assert secrets.read("key") == "new"


def test_a_file_that_others_may_read_is_refused_until_it_is_closed(tmp_path: Path) -> None:
    secrets = SecretFiles(tmp_path)
    path = write(tmp_path, "key", b"s3cret", 0o640)
    with pytest.raises(SecretUnusable, match="mode 0640 and may be read by others; `chmod 600"):
        secrets.read("key")
    path.chmod(0o400)
    assert secrets.read("key") == "s3cret"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no secret"),
        (b"two\r\nlines: of header", "one line of printable ASCII"),
        ("schlüssel".encode(), "one line of printable ASCII"),
        (b"x" * 8193, "8193 bytes; at most 8192 are allowed"),
    ],
)
def test_a_file_that_is_no_secret_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Without a word of what it holds."""
    write(tmp_path, "key", content)
    with pytest.raises(SecretUnusable, match=message) as refused:
        SecretFiles(tmp_path).read("key")
    assert "schl" not in str(refused.value)
    assert "header" not in str(refused.value)


@pytest.mark.parametrize("name", ["../key", "a/b", "", ".hidden", "x" * 65, "new\nline"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    write(tmp_path, "key", b"s3cret")
    with pytest.raises(SecretUnusable, match="names no secret"):
        SecretFiles(tmp_path / "inner").read(name)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(SecretUnusable, match=r"absent cannot be read .*write the secret there, mode 0600"):
        SecretFiles(tmp_path).read("absent")
    with pytest.raises(SecretUnusable, match="folder cannot be read"):
        SecretFiles(tmp_path).read("folder")
    with pytest.raises(SecretUnusable, match="no folder of secrets is set"):
        SecretFiles(None).read("key")
