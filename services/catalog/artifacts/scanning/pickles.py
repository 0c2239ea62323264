"""Pickles, alone or in archives: their instructions are read by picklescan, and what they would import is judged."""

from __future__ import annotations

import logging
import pickletools
import stat
import zipfile
from typing import IO

from picklescan.scanner import SafetyLevel, ScanResult, scan_pickle_bytes

from services.catalog.artifacts.scanning.refusal import Refusal, ScanLimits
from services.catalog.domain.paths import leads_out

# It logs every finding with the file's name; what is refused is said once, by us.
logging.getLogger("picklescan").setLevel(logging.CRITICAL)

_ARCHIVES = (b"PK", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")
_HEAD_BYTES = 16


def check_pickles(file: IO[bytes], limits: ScanLimits, *, is_text: bool = False) -> None:
    """Every pickle that a file holds imports only what picklescan knows as harmless; a file without any passes.

    Args:
        is_text: Words may read like the beginning of a pickle of the oldest protocols. One that goes on to its end is a
            pickle; of one that does not only what is known as dangerous counts.

    Raises:
        Refusal: naming what one would import, or that it is larger than is read.
    """
    size = file.seek(0, 2)
    file.seek(0)
    if not size:
        return
    if size > limits.pickle_bytes_max:
        # The first instructions tell a pickle: data of this size is none, and a pickle of this size is not taken.
        if _begins_as_pickle(file):
            raise Refusal(f"it is a pickle of {size} bytes; at most {limits.pickle_bytes_max} are read")
        return
    begins = _begins_as_pickle(file)
    found = _scan(file)
    _judge(found, strictly=not (is_text and found.scan_err))
    if begins:
        _follow(file)


def check_archive(file: IO[bytes], limits: ScanLimits) -> None:
    """A zip archive, such as PyTorch's files are: small enough unpacked, without ways out, and its pickles harmless.

    Raises:
        Refusal: naming the entry.
    """
    size = file.seek(0, 2)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_entries(entries, size, limits)
            for entry in entries:
                _check_entry(archive, entry, limits)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as damaged:
        # An archive that one reader cannot read may still be read by another one.
        raise Refusal(f"its archive cannot be read: {str(damaged)[:200]}") from None


def _check_entries(entries: list[zipfile.ZipInfo], size: int, limits: ScanLimits) -> None:
    if len(entries) > limits.archive_entries_max:
        raise Refusal(f"its archive has {len(entries)} files; at most {limits.archive_entries_max} are allowed")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > size * limits.archive_ratio_max:
        raise Refusal(
            f"its archive of {size} bytes unpacks to {unpacked}; {limits.archive_ratio_max} times as much is allowed"
        )
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise Refusal("its archive has two files of one name")
    for entry in entries:
        if leads_out(entry.filename.removesuffix("/")):
            raise Refusal(f"its archive has a file {entry.filename[:80]!r}, which leads out of it")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise Refusal(f"its archive has a link, {entry.filename[:80]!r}")


def _check_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limits: ScanLimits) -> None:
    if entry.is_dir():
        return
    shown = entry.filename[:80]
    with archive.open(entry) as file:
        begin = file.read(_HEAD_BYTES)
    if begin.startswith(_ARCHIVES):
        raise Refusal(f"its archive has another archive in it, {shown!r}")
    if entry.file_size > limits.pickle_bytes_max and begin[:1] != b"\x80":
        return
    if entry.file_size > limits.pickle_bytes_max:
        raise Refusal(f"its archive has a pickle of {entry.file_size} bytes, {shown!r}")
    with archive.open(entry) as file:
        _judge(_scan(file), strictly=True)
        if begin[:1] == b"\x80":
            _follow(file)


def _scan(file: IO[bytes]) -> ScanResult:
    """What the pickles in a file would import."""
    try:
        return scan_pickle_bytes(file, "the file")
    except Exception as confused:  # noqa: BLE001 - whatever it raises, it was given by a stranger
        # Instructions that confuse the scanner were made to.
        raise Refusal(f"its pickle cannot be followed ({type(confused).__name__})") from None


def _follow(file: IO[bytes]) -> None:
    """See every instruction of every pickle up to the file's end: what the scanner did not reach was not judged.

    Raises:
        Refusal: they break off, or something else follows them.
    """
    file.seek(0)
    try:
        while file.read(1):
            file.seek(-1, 1)
            for _ in pickletools.genops(file):
                pass
    except Exception as confused:  # noqa: BLE001 - whatever it raises, it was given by a stranger
        raise Refusal(f"its pickle cannot be followed to its end ({type(confused).__name__})") from None


def _judge(found: ScanResult, *, strictly: bool) -> None:
    """Strictly: what is not known as harmless is dangerous."""
    harmful = {SafetyLevel.Dangerous, SafetyLevel.Suspicious} if strictly else {SafetyLevel.Dangerous}
    dangerous = [one for one in found.globals if one.safety in harmful]
    if dangerous:
        named = f"{dangerous[0].module}.{dangerous[0].name}"[:120]
        raise Refusal(f"its pickle would import {named!r} when it is loaded, which can run anything")


def _begins_as_pickle(file: IO[bytes]) -> bool:
    begin = file.read(2)
    file.seek(0)
    return begin[:1] == b"\x80" and begin[1:] <= b"\x05"
