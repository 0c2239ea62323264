"""What the engine's configuration says of the model: its tensors and its batches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

TYPES = frozenset(
    {
        "BOOL",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FP16",
        "FP32",
        "FP64",
        "BYTES",
    }
)


def template_values(parameters: Mapping[str, str]) -> dict[str, str]:
    """Values of `config.pbtxt`, by their names there.

    Raises:
        ValueError: a tensor or a batch size that cannot be one.
    """
    batch = int(parameters.get("max_batch_size", "0"))
    if batch < 0:
        raise ValueError(f"max_batch_size {batch} is below zero")
    batched = parameters.get("dynamic_batching") == "true" and batch > 0
    return {
        "max_batch_size": str(batch),
        "dynamic_batching": "dynamic_batching { }" if batched else "",
        "inputs": _tensors("input", parameters.get("inputs", "")),
        "outputs": _tensors("output", parameters.get("outputs", "")),
    }


def read_tensors(text: str) -> list[dict[str, Any]]:
    """The tensors of one side.

    Raises:
        ValueError: no list of tensors.
    """
    tensors = json.loads(text)
    for one in tensors:
        if one["type"] not in TYPES or not isinstance(one["name"], str):
            raise ValueError(f"tensor {one!r} has no name, or a type that is unknown")
        if not all(type(length) is int and (length == -1 or length > 0) for length in one["dims"]):
            raise ValueError(f"tensor {one['name']!r} has the shape {one['dims']}")
    return list(tensors)


def _tensors(side: str, text: str) -> str:
    lines = []
    for one in read_tensors(text):
        kind = "STRING" if one["type"] == "BYTES" else one["type"]
        # JSON's strings are strings of the protobuf text format, too.
        name = json.dumps(one["name"])
        dims = ", ".join(map(str, one["dims"]))
        # A shape without lengths is one number; Triton wants it said as such.
        shape = f"dims: [ {dims} ]" if dims else "dims: [ 1 ] reshape { shape: [ ] }"
        lines.append(f"{side} [ {{ name: {name} data_type: TYPE_{kind} {shape} }} ]")
    return "\n".join(lines)
