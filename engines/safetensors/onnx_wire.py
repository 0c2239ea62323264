"""Writes ONNX models: the few messages of onnx.proto (IR version 9) that a graph over outside weights needs.

A weight stays where it lies: the model names its file, offset and length (`external_data`), and ONNX Runtime maps it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

FLOAT, INT64, FLOAT16, BFLOAT16 = 1, 7, 10, 16
_IR_VERSION, _OPSET_VERSION = 9, 20
_EXTERNAL = 1
_ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_STRING, _ATTRIBUTE_INTS = 1, 2, 3, 7
Attribute = int | float | str | Sequence[int]


@dataclass
class Graph:
    """A graph under construction; `build` gives the bytes of the model."""

    nodes: list[bytes] = field(default_factory=list)
    initializers: list[bytes] = field(default_factory=list)
    inputs: list[bytes] = field(default_factory=list)
    outputs: list[bytes] = field(default_factory=list)
    _count: int = 0

    def input(self, name: str, data_type: int, shape: Sequence[int | str]) -> str:
        self.inputs.append(_value_info(name, data_type, shape))
        return name

    def output(self, value: str, data_type: int, shape: Sequence[int | str]) -> None:
        self.outputs.append(_value_info(value, data_type, shape))

    def weight(self, name: str, data_type: int, shape: Sequence[int], file: str, offset: int, size: int) -> str:
        """A tensor whose bytes lie in another file."""
        where = {"location": file, "offset": str(offset), "length": str(size)}
        entries = b"".join(_bytes(13, _text(1, key) + _text(2, value)) for key, value in where.items())
        self.initializers.append(_tensor(name, data_type, shape) + entries + _int(14, _EXTERNAL))
        return name

    def floats(self, *values: float) -> str:
        return self._constant(FLOAT, struct.pack(f"<{len(values)}f", *values), [len(values)])

    def integers(self, *values: int) -> str:
        return self._constant(INT64, struct.pack(f"<{len(values)}q", *values), [len(values)])

    def node(self, operator: str, *inputs: str, **attributes: Attribute) -> str:
        """One operator of the default set with one output; the output's name."""
        name = self._name(operator)
        written = b"".join(_text(1, value) for value in inputs) + _text(2, name) + _text(3, name) + _text(4, operator)
        self.nodes.append(written + _attributes(attributes))
        return name

    def build(self) -> bytes:
        graph = b"".join(_bytes(1, node) for node in self.nodes) + _text(2, "graph")
        graph += b"".join(_bytes(5, initializer) for initializer in self.initializers)
        graph += b"".join(_bytes(11, value) for value in self.inputs)
        graph += b"".join(_bytes(12, value) for value in self.outputs)
        return _int(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, _text(1, "") + _int(2, _OPSET_VERSION))

    def _constant(self, data_type: int, raw: bytes, shape: Sequence[int]) -> str:
        name = self._name("constant")
        self.initializers.append(_tensor(name, data_type, shape) + _bytes(9, raw))
        return name

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"


def _tensor(name: str, data_type: int, shape: Sequence[int]) -> bytes:
    return b"".join(_int(1, length) for length in shape) + _int(2, data_type) + _text(8, name)


def _value_info(name: str, data_type: int, shape: Sequence[int | str]) -> bytes:
    dimensions = b"".join(
        _bytes(1, _text(2, length) if isinstance(length, str) else _int(1, length)) for length in shape
    )
    return _text(1, name) + _bytes(2, _bytes(1, _int(1, data_type) + _bytes(2, dimensions)))


def _attributes(attributes: Mapping[str, Attribute]) -> bytes:
    return b"".join(_bytes(5, _text(1, name) + _attribute(value)) for name, value in attributes.items())


def _attribute(value: Attribute) -> bytes:
    if isinstance(value, float):
        return _key(2, 5) + struct.pack("<f", value) + _int(20, _ATTRIBUTE_FLOAT)
    if isinstance(value, int):
        return _int(3, value) + _int(20, _ATTRIBUTE_INT)
    if isinstance(value, str):
        return _text(4, value) + _int(20, _ATTRIBUTE_STRING)
    return b"".join(_int(8, one) for one in value) + _int(20, _ATTRIBUTE_INTS)


def _key(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _int(number: int, value: int) -> bytes:
    return _key(number, 0) + _varint(value & (1 << 64) - 1)


def _text(number: int, value: str) -> bytes:
    return _bytes(number, value.encode())


def _bytes(number: int, value: bytes) -> bytes:
    return _key(number, 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
