"""Look at one file of a stranger. Nothing in it is loaded, unpickled or run; `process.py` does it at arm's length.

Formats are told by content: a pickle that is called model.onnx is a pickle.
"""

from __future__ import annotations

import contextlib
import json
import mmap
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from services.catalog.artifacts.scanning.pickles import check_archive, check_pickles
from services.catalog.artifacts.scanning.refusal import Refusal, ScanLimits
from services.catalog.domain.formats.gguf import GgufInvalid, read_gguf
from services.catalog.domain.formats.onnx import OnnxInvalid, read_onnx
from services.catalog.domain.formats.safetensors import (
    Buffer,
    SafetensorsInvalid,
    is_safetensors,
    read_safetensors,
)
from services.catalog.domain.paths import leads_out

# What runs as it is, or unpacks into anything: no engine here takes it.
_PROGRAMS = {
    b"\x7fELF": "a program or library (ELF)",
    b"MZ": "a program or library (PE)",
    b"\xcf\xfa\xed\xfe": "a program or library (Mach-O)",
    b"\xca\xfe\xba\xbe": "a program or library (Mach-O or Java)",
    b"#!": "a script",
    b"\x1f\x8b": "a compressed archive (gzip)",
    b"BZh": "a compressed archive (bzip2)",
    b"\xfd7zXZ\x00": "a compressed archive (xz)",
    b"7z\xbc\xaf\x27\x1c": "a compressed archive (7z)",
    b"Rar!": "a compressed archive (rar)",
    b"\x28\xb5\x2f\xfd": "a compressed archive (zstd)",
}
_TAR_MAGIC = (257, b"ustar")
# A text is looked at whole up to this size; larger ones are data.
_TEXT_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a file is.

    Attributes:
        format: "gguf", "safetensors", "onnx", "json", "text", "pickle", "zip" or "data".
        facts: What its head says, as JSON values; empty for the last five.
    """

    format: str
    facts: dict[str, Any]


def scan_file(path: Path, limits: ScanLimits | None = None) -> Scanned:
    """What a file is.

    Raises:
        Refusal: it could harm whoever loads it, or is damaged.
    """
    limits = limits or ScanLimits()
    with path.open("rb") as file, _mapped(file) as content:
        begin = content[:16]
        for magic, what in _PROGRAMS.items():
            if begin.startswith(magic):
                raise Refusal(f"it is {what}; only models and their plain files are taken")
        if content[_TAR_MAGIC[0] : _TAR_MAGIC[0] + len(_TAR_MAGIC[1])] == _TAR_MAGIC[1]:
            raise Refusal("it is an archive (tar); upload the files in it")
        if begin.startswith(b"GGUF"):
            return Scanned("gguf", _read(lambda: asdict(read_gguf(content)), GgufInvalid, "GGUF"))
        if is_safetensors(content):
            return Scanned("safetensors", _read(lambda: read_safetensors(content), SafetensorsInvalid, "safetensors"))
        if begin.startswith(b"PK"):
            check_archive(file, limits)
            return Scanned("zip", {})
        if (text := _text(content)) is not None:
            # Pickles of the oldest protocols are text.
            check_pickles(file, limits, is_text=True)
            return Scanned("json" if _is_json(text) else "text", {})
        if begin[:1] == b"\x80":
            check_pickles(file, limits)
            return Scanned("pickle", {})
        if (model := _onnx(content)) is not None:
            return Scanned("onnx", model)
        check_pickles(file, limits)
        return Scanned("data", {})


def _read(read: Callable[[], dict[str, Any]], invalid: type[Exception], name: str) -> dict[str, Any]:
    try:
        return read()
    except invalid as wrong:
        raise Refusal(f"its {name} is damaged: {wrong}") from None


def _onnx(content: Buffer) -> dict[str, Any] | None:
    """The outline of an ONNX model; None where it is none.

    Raises:
        Refusal: it names a file outside its folder.
    """
    try:
        facts = read_onnx(content).facts()
    except OnnxInvalid:
        return None
    for name in facts["external_files"]:
        if leads_out(name):
            raise Refusal(f"its ONNX takes weights from {name[:200]!r}, which leads out of its folder")
    return facts


def _text(content: Buffer) -> str | None:
    if len(content) > _TEXT_BYTES_MAX:
        return None
    try:
        text = content[:].decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


@contextlib.contextmanager
def _mapped(file: Any) -> Iterator[Buffer]:
    """A file's bytes without reading them all; an empty file cannot be mapped."""
    if not file.seek(0, 2):
        yield b""
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield content
