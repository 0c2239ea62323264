"""A safetensors file: 8 bytes of header length, a JSON header, then the tensors' bytes without a gap."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import Any, Protocol

HEADER_BYTES_MAX = 100_000_000
_TENSORS_MAX = 1_000_000
_DIMENSIONS_MAX = 32
_ITEM_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


class Buffer(Protocol):
    """Bytes, or a file that is mapped into memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...


class SafetensorsInvalid(Exception):
    """The file is not what its header says; the text says where."""


def is_safetensors(file: Buffer) -> bool:
    """Whether it begins like one: a length, then a JSON object."""
    return len(file) >= 8 and file[8:9] == b"{" and struct.unpack("<Q", file[:8])[0] <= HEADER_BYTES_MAX


def read_safetensors(file: Buffer) -> dict[str, Any]:
    """`{"tensor_count", "parameter_count"}` of a file whose tensors fill it exactly, each with the size of its shape.

    Raises:
        SafetensorsInvalid: a header that overruns the file, or a tensor that overlaps another one, leaves a gap, or does
            not fit its shape.
    """
    if len(file) < 8:
        raise SafetensorsInvalid(f"it has {len(file)} bytes and no header")
    (length,) = struct.unpack("<Q", file[:8])
    if length > HEADER_BYTES_MAX:
        raise SafetensorsInvalid(f"its header has {length} bytes; at most {HEADER_BYTES_MAX} are allowed")
    if 8 + length > len(file):
        raise SafetensorsInvalid(f"its header of {length} bytes overruns the file, which has {len(file)}")
    tensors = {name: entry for name, entry in _header(file[8 : 8 + length]).items() if name != "__metadata__"}
    if len(tensors) > _TENSORS_MAX:
        raise SafetensorsInvalid(f"it has {len(tensors)} tensors; at most {_TENSORS_MAX} are allowed")
    places, parameter_count = [], 0
    for name, entry in tensors.items():
        begin, end, items = _place(name, entry)
        parameter_count += items
        places.append((begin, end, name))
    _check_filled(places, len(file) - 8 - length)
    return {"tensor_count": len(tensors), "parameter_count": parameter_count}


def _header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as wrong:
        raise SafetensorsInvalid(f"its header is no JSON object: {str(wrong)[:200]}") from None
    if not isinstance(header, dict):
        raise SafetensorsInvalid("its header is no JSON object")
    return header


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Readers differ in which of two equal names they take."""
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name stands twice in it")
    return names


def _place(name: str, entry: Any) -> tuple[int, int, int]:
    """Where a tensor's bytes begin and end, and how many items it has."""
    shown = repr(name[:80])
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise SafetensorsInvalid(f"tensor {shown} has no dtype, shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_counts(shape) or len(shape) > _DIMENSIONS_MAX or not _are_counts(offsets) or len(offsets) != 2:
        raise SafetensorsInvalid(f"tensor {shown} has a shape or offsets that are no lists of whole numbers")
    bits = _ITEM_BITS.get(str(entry["dtype"]))
    if bits is None:
        raise SafetensorsInvalid(f"tensor {shown} has type {str(entry['dtype'])[:40]!r}, which is unknown")
    items = math.prod(shape)
    if items * bits != (offsets[1] - offsets[0]) * 8:
        raise SafetensorsInvalid(
            f"tensor {shown} takes {items * bits // 8} bytes by its shape and {offsets[1] - offsets[0]} by its offsets"
        )
    return offsets[0], offsets[1], items


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _check_filled(places: list[tuple[int, int, str]], data_bytes: int) -> None:
    """Tensors lie side by side from the first byte of the data to the last."""
    reached = 0
    for begin, end, name in sorted(places):
        if begin != reached:
            how = "overlaps another one" if begin < reached else "leaves a gap before it"
            raise SafetensorsInvalid(f"tensor {name[:80]!r} begins at {begin} and {how}")
        reached = end
    if reached != data_bytes:
        how = "overrun" if reached > data_bytes else "do not fill"
        raise SafetensorsInvalid(f"its tensors {how} the file: they end at {reached} of {data_bytes} bytes of data")
