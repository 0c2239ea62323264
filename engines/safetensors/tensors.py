"""The table of contents of a safetensors file: 8 bytes of header length, a JSON header, then the tensors' bytes."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEADER_BYTES_MAX = 100_000_000
_ITEM_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class TensorsInvalid(Exception):
    """The file is not what its header says; the text says where."""


@dataclass(frozen=True)
class Tensor:
    """Where a tensor's bytes lie.

    Attributes:
        dtype: safetensors' name, such as "F32".
        shape: Lengths, outermost first.
        offset: First byte, counted from the beginning of the file.
        size: Length in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of the file by name; only the header is read.

    Raises:
        TensorsInvalid: a header that does not fit the file, or a tensor that does not fit its own shape.
    """
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        begin = file.read(8)
        if len(begin) < 8:
            raise TensorsInvalid(f"{path.name} has {file_bytes} bytes and no header")
        (length,) = struct.unpack("<Q", begin)
        if length > min(HEADER_BYTES_MAX, file_bytes - 8):
            raise TensorsInvalid(
                f"{path.name} says its header has {length} bytes; the file has {file_bytes}, and {HEADER_BYTES_MAX} are allowed"
            )
        try:
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            return {name: _tensor(entry, 8 + length, file_bytes) for name, entry in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as wrong:
            raise TensorsInvalid(f"{path.name} has a header that cannot be read: {wrong}") from None


def _tensor(entry: dict[str, Any], data_begins: int, file_bytes: int) -> Tensor:
    begin, end = entry["data_offsets"]
    shape = tuple(int(length) for length in entry["shape"])
    dtype = str(entry["dtype"])
    if dtype not in _ITEM_BYTES:
        raise ValueError(f"type {dtype!r} is unknown")
    wanted = math.prod(shape) * _ITEM_BYTES[dtype]
    if min(shape, default=0) < 0 or begin < 0 or end - begin != wanted or data_begins + end > file_bytes:
        raise ValueError(f"a tensor of {wanted} bytes lies at {begin} to {end} of {file_bytes - data_begins}")
    return Tensor(dtype, shape, data_begins + begin, wanted)
