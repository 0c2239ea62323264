"""Small model files, whole or damaged, written byte by byte."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

FLOAT, INT64, STRING = 1, 7, 8


def safetensors(tensors: Mapping[str, Any], data: bytes = b"", *, header_bytes: int | None = None) -> bytes:
    """A file with this header; `header_bytes` is what it claims to be long."""
    header = json.dumps(tensors).encode()
    return struct.pack("<Q", len(header) if header_bytes is None else header_bytes) + header + data


def tensor(begin: int, end: int, *, dtype: str = "U8", shape: Sequence[int] | None = None) -> dict[str, Any]:
    """An entry of such a header."""
    return {"dtype": dtype, "shape": [end - begin] if shape is None else list(shape), "data_offsets": [begin, end]}


def varint(value: int) -> bytes:
    """A number of the protobuf wire format."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(*fields: tuple[int, int | bytes | str]) -> bytes:
    """A protobuf message of (number, value) pairs."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            content = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(content)) + content
    return out


def tensor_info(name: str, kind: int, shape: Sequence[int | str]) -> bytes:
    """An input or output of an ONNX graph; a text stands for a length that is free."""
    lengths = [(1, message((1 if isinstance(one, int) else 2, one))) for one in shape]
    return message((1, name), (2, message((1, message((1, kind), (2, message(*lengths)))))))


def node(
    operator: str, inputs: Sequence[str], outputs: Sequence[str], *more: tuple[int, Any], domain: str = ""
) -> bytes:
    """One step of an ONNX graph."""
    named = [*((1, one) for one in inputs), *((2, one) for one in outputs), (4, operator)]
    return message(*named, *([(7, domain)] if domain else []), *more)


def external_tensor(name: str, location: str, items: int = 1) -> bytes:
    """Weights that lie in another file."""
    entry = message((1, "location"), (2, location))
    return message((1, items), (2, FLOAT), (8, name), (13, entry), (14, 1))


def onnx_model(
    *graph: tuple[int, Any], domains: Sequence[str] = ("",), more: Sequence[tuple[int, Any]] = (), opset: int = 17
) -> bytes:
    """An ONNX model around the parts of its graph."""
    sets = [(8, message((1, domain), (2, opset))) for domain in domains]
    return message((1, 8), *sets, (7, message(*graph, (2, "graph"))), *more)


def doubling_model(name_in: str = "X", name_out: str = "Y") -> bytes:
    """A real one that adds its input to itself: FP32 [batch, 3] to FP32 [batch, 3]."""
    return onnx_model(
        (1, node("Add", [name_in, name_in], [name_out])),
        (11, tensor_info(name_in, FLOAT, ["batch", 3])),
        (12, tensor_info(name_out, FLOAT, ["batch", 3])),
    )


def encoder(
    inputs: tuple[str, ...] = ("input_ids", "attention_mask"),
    output: bytes = b"",
    kind: int = INT64,
    operators: str = "",
) -> bytes:
    """A model with the face of an encoder whose vectors have 8 numbers."""
    return onnx_model(
        (1, node("Identity", ["input_ids"], ["last_hidden_state"], domain=operators)),
        *((11, tensor_info(name, kind, ["batch", "tokens"])) for name in inputs),
        (12, output or tensor_info("last_hidden_state", FLOAT, ["batch", "tokens", 8])),
    )


def gguf_text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf_entry(name: str, value: Any) -> bytes:
    if isinstance(value, bool):
        return gguf_text(name) + struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return gguf_text(name) + struct.pack("<II", 4, value)
    if isinstance(value, str):
        return gguf_text(name) + struct.pack("<I", 8) + gguf_text(value)
    items = b"".join(map(gguf_text, value))
    return gguf_text(name) + struct.pack("<IIQ", 9, 8, len(value)) + items


def gguf(version: int = 3, tensors: bytes = b"", tensor_count: int = 0, **metadata: Any) -> bytes:
    """The head of a file; names with two underscores for a dot."""
    entries = {name.replace("__", "."): value for name, value in metadata.items()}
    head = b"GGUF" + struct.pack("<IQQ", version, tensor_count, len(entries))
    return head + b"".join(gguf_entry(name, value) for name, value in entries.items()) + tensors


def gguf_tensor(name: str, items: int, offset: int, *, kind: int = 0, dimensions: int = 1) -> bytes:
    """Where a tensor lies; type 0 is FP32."""
    lengths = struct.pack("<Q", items) + struct.pack("<Q", 1) * (dimensions - 1)
    return gguf_text(name) + struct.pack("<I", dimensions) + lengths + struct.pack("<IQ", kind, offset)


def gguf_with_data(head: bytes, data_bytes: int, alignment: int = 32) -> bytes:
    """The tensors' bytes begin at a whole multiple of the alignment."""
    return head.ljust(-(-len(head) // alignment) * alignment, b"\0") + bytes(data_bytes)


SMALL_GGUF: dict[str, Any] = {
    "general__architecture": "llama",
    "llama__context_length": 4096,
    "llama__block_count": 2,
    "llama__embedding_length": 64,
    "llama__attention__head_count": 8,
    "llama__attention__head_count_kv": 2,
    "tokenizer__ggml__model": "gpt2",
    "tokenizer__ggml__tokens": ["<s>", "</s>", "a"],
    "tokenizer__ggml__bos_token_id": 0,
    "tokenizer__ggml__eos_token_id": 1,
    "tokenizer__chat_template": "{{ x }}",
}
