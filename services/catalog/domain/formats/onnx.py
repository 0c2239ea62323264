"""The outline of an ONNX model: what it takes and gives, which operators and which other files it needs.

Only what matters here is read from the protobuf wire format (onnx.proto3 of ONNX 1.x); weights are stepped over, never
copied, so that the size of a model does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from services.catalog.domain.formats.safetensors import Buffer

# Of values that are copied: names, shapes, attributes of nodes are stepped over.
_TEXT_BYTES_MAX = 4096
_ENTRIES_MAX = 1_000_000
_DEPTH_MAX = 12
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# TensorProto.DataType to Triton's names; others cannot travel as tensors.
TYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
}
_EXTERNAL = 1


class OnnxInvalid(Exception):
    """Not an ONNX model, or one that reaches out of its folder; the text says where."""


@dataclass(slots=True)
class OnnxModel:
    """What was found.

    Attributes:
        inputs, outputs: Name, type and shape of each; -1 for a length that is free, no shape where none is stated.
        domains: Sets of operators that its nodes are of, "" for ONNX's own.
        external_files: Files beside it that hold weights, as it names them.
    """

    ir_version: int = 0
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    domains: set[str] = field(default_factory=set)
    external_files: set[str] = field(default_factory=set)
    initializers: set[str] = field(default_factory=set)
    # Sets of operators that it defines itself.
    own_domains: set[str] = field(default_factory=set)
    parameter_count: int = 0

    def facts(self) -> dict[str, Any]:
        """As JSON values; inputs that have a value in the model are no inputs of callers."""
        return {
            "inputs": [one for one in self.inputs if one["name"] not in self.initializers],
            "outputs": self.outputs,
            "domains": sorted(self.domains - self.own_domains),
            "external_files": sorted(self.external_files),
            "parameter_count": self.parameter_count,
        }


def read_onnx(file: Buffer) -> OnnxModel:
    """The outline of a model.

    Raises:
        OnnxInvalid: it is no ONNX model, or is damaged.
    """
    model = OnnxModel()
    has_graph = False
    for number, value in _fields(file, 0, len(file)):
        if number == 1:
            model.ir_version = _int(value)
        elif number == 7:
            has_graph = True
            _read_graph(file, _part(value), model, 0)
        elif number == 25:
            _read_function(file, _part(value), model)
    if not has_graph or not model.ir_version or not model.outputs:
        raise OnnxInvalid("it has no graph with outputs")
    return model


def _read_graph(file: Buffer, part: tuple[int, int], model: OnnxModel, depth: int) -> None:
    if depth > _DEPTH_MAX:
        raise OnnxInvalid(f"its graphs are nested deeper than {_DEPTH_MAX}")
    for number, value in _fields(file, *part):
        if number == 1:
            _read_node(file, _part(value), model, depth)
        elif number == 5:
            _read_tensor(file, _part(value), model, is_outermost=depth == 0)
        elif number == 15:
            for inner, tensor in _fields(file, *_part(value)):
                if inner in (1, 2):
                    _read_tensor(file, _part(tensor), model, is_outermost=depth == 0 and inner == 1)
        elif number == 11 and depth == 0:
            model.inputs.append(_value_info(file, _part(value)))
        elif number == 12 and depth == 0:
            model.outputs.append(_value_info(file, _part(value)))


def _read_node(file: Buffer, part: tuple[int, int], model: OnnxModel, depth: int) -> None:
    """Its set of operators, and what its attributes hold: tensors and whole graphs."""
    model.domains.add(_named(file, part, 7))
    for number, value in _fields(file, *part):
        if number == 5:
            for inner, held in _fields(file, *_part(value)):
                if inner in (5, 10):
                    _read_tensor(file, _part(held), model, is_outermost=False)
                elif inner in (6, 11):
                    _read_graph(file, _part(held), model, depth + 1)
                elif inner in (22, 23):
                    _read_sparse(file, _part(held), model)


def _read_sparse(file: Buffer, part: tuple[int, int], model: OnnxModel) -> None:
    for number, value in _fields(file, *part):
        if number in (1, 2):
            _read_tensor(file, _part(value), model, is_outermost=False)


def _read_function(file: Buffer, part: tuple[int, int], model: OnnxModel) -> None:
    """A function of the model's own: its nodes, and the sets of operators they need."""
    for number, value in _fields(file, *part):
        if number == 7:
            _read_node(file, _part(value), model, 1)
        elif number == 10:
            model.own_domains.add(_text(file, _part(value)))


def _read_tensor(file: Buffer, part: tuple[int, int], model: OnnxModel, *, is_outermost: bool) -> None:
    location, items, entries = 0, 1, {}
    for number, value in _fields(file, *part):
        if number == 1:
            for length in _ints(file, value):
                items *= max(length, 0)
        elif number == 8 and is_outermost:
            model.initializers.add(_text(file, _part(value)))
        elif number == 13:
            entry = _part(value)
            entries[_named(file, entry, 1)] = _named(file, entry, 2)
        elif number == 14:
            location = _int(value)
    if is_outermost:
        model.parameter_count += items
    if location == _EXTERNAL or entries:
        model.external_files.add(entries.get("location", ""))


def _value_info(file: Buffer, part: tuple[int, int]) -> dict[str, Any]:
    """`{"name", "type", "shape"}` of an input or output; a type of "" where it is no tensor."""
    found: dict[str, Any] = {"name": "", "type": "", "shape": None}
    for number, value in _fields(file, *part):
        if number == 1:
            found["name"] = _text(file, _part(value))
        elif number == 2:
            for kind, tensor in _fields(file, *_part(value)):
                if kind == 1:
                    _read_tensor_type(file, _part(tensor), found)
    return found


def _read_tensor_type(file: Buffer, part: tuple[int, int], found: dict[str, Any]) -> None:
    for number, value in _fields(file, *part):
        if number == 1:
            found["type"] = TYPES.get(_int(value), "")
        elif number == 2:
            found["shape"] = [_length(file, _part(one)) for inner, one in _fields(file, *_part(value)) if inner == 1]


def _length(file: Buffer, part: tuple[int, int]) -> int:
    for number, value in _fields(file, *part):
        if number == 1:
            return _int(value)
    return -1


# A number as it stands, or where a run of bytes begins and ends.
_Value = int | tuple[int, int]


def _fields(file: Buffer, start: int, stop: int) -> Iterator[tuple[int, _Value]]:
    """(number, value) of every field of a message."""
    at, count = start, 0
    while at < stop:
        count += 1
        if count > _ENTRIES_MAX:
            raise OnnxInvalid(f"a part of it has more than {_ENTRIES_MAX} entries")
        key, at = _varint(file, at, stop)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise OnnxInvalid(f"byte {at} is no part of a protobuf message")
        if wire == _VARINT:
            value, at = _varint(file, at, stop)
            yield number, value
            continue
        if wire == _BYTES:
            length, at = _varint(file, at, stop)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise OnnxInvalid(f"byte {at} is no part of a protobuf message")
        if at + length > stop:
            raise OnnxInvalid(f"a part of {length} bytes at {at} overruns what it is part of, which ends at {stop}")
        yield number, (at, at + length)
        at += length


def _varint(file: Buffer, at: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    for byte in file[at : min(at + 10, stop)]:
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value & (1 << 64) - 1, at
        shift += 7
    raise OnnxInvalid(f"a number at {at} does not end")


def _ints(file: Buffer, value: _Value) -> Iterator[int]:
    """Whole numbers, one by one or packed."""
    if isinstance(value, int):
        yield value
        return
    at, stop = value
    while at < stop:
        number, at = _varint(file, at, stop)
        yield number


def _named(file: Buffer, part: tuple[int, int], wanted: int) -> str:
    """One text field of a message; empty where it is not there."""
    for number, value in _fields(file, *part):
        if number == wanted:
            return _text(file, _part(value))
    return ""


def _text(file: Buffer, part: tuple[int, int]) -> str:
    if part[1] - part[0] > _TEXT_BYTES_MAX:
        raise OnnxInvalid(f"a name at {part[0]} has {part[1] - part[0]} bytes; at most {_TEXT_BYTES_MAX} are allowed")
    try:
        return file[part[0] : part[1]].decode()
    except UnicodeDecodeError:
        raise OnnxInvalid(f"a name at {part[0]} is no text") from None


def _part(value: _Value) -> tuple[int, int]:
    if isinstance(value, int):
        raise OnnxInvalid("a number stands where a part is expected")
    return value


def _int(value: _Value) -> int:
    if not isinstance(value, int):
        raise OnnxInvalid("a part stands where a number is expected")
    # int64 travels as 64 bits.
    return value - (1 << 64) if value >= 1 << 63 else value
