"""A GGUF file: its metadata, then where each tensor lies, then the tensors."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from services.catalog.domain.formats.safetensors import Buffer
from services.catalog.domain.hub import GgufFacts

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_STRING, _ARRAY = 8, 9
# Type number to struct format.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_ENTRIES_MAX, _ITEMS_MAX, _TEXT_BYTES_MAX = 65_536, 16_777_216, 16_777_216
_TEMPLATE_CHARACTERS_MAX = 65_536
_TOKENS = "tokenizer.ggml.tokens"
# Pre-tokenizers whose models llama.cpp begins itself where the file does not say.
_BEGUN_BY_ENGINE = {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "tekken"}
# Arrays whose items matter; the others are passed over.
_KEPT_ARRAYS = {_TOKENS}
_TENSORS_MAX, _DIMENSIONS_MAX, _NAME_BYTES_MAX = 1_000_000, 4, 65_536
_ALIGNMENT_DEFAULT, _ALIGNMENT_MAX = 32, 1 << 20
# Type number to (items of one block, bytes of one block), as ggml has them.
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 30: (1, 2),
    2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36), 20: (32, 18), 39: (32, 17),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    29: (256, 56), 34: (256, 54), 35: (256, 66),
}  # fmt: skip


class GgufInvalid(Exception):
    """Not the head of a GGUF file; says what is wrong."""


class GgufIncomplete(Exception):
    """The head goes on behind the bytes given."""


def read_gguf_head(head: bytes) -> GgufFacts:
    """What the metadata say of the model.

    Args:
        head: The file's first bytes, as many as the metadata take or more.

    Raises:
        GgufIncomplete: more bytes are needed.
        GgufInvalid: it is no GGUF file, or lacks what every model has.
    """
    return _facts(_metadata(_Reader(head))[0])


def read_gguf(file: Buffer) -> GgufFacts:
    """The same of a whole file whose tensors have been seen to lie in it, each where no other one does.

    Raises:
        GgufInvalid: it is no GGUF file, lacks what every model has, or its tensors do not fit it.
    """
    reader = _Reader(file)
    try:
        found, tensor_count = _metadata(reader)
        parameter_count = _check_tensors(reader, found, tensor_count)
    except GgufIncomplete:
        raise GgufInvalid("its head goes on behind its end") from None
    facts = _facts(found)
    return replace(facts, parameter_count=parameter_count)


def _check_tensors(reader: _Reader, found: dict[str, Any], tensor_count: int) -> int:
    """How many items all tensors have."""
    if tensor_count > _TENSORS_MAX:
        raise GgufInvalid(f"it has {tensor_count} tensors; at most {_TENSORS_MAX} are read")
    places = [_tensor(reader) for _ in range(tensor_count)]
    alignment = found.get("general.alignment", _ALIGNMENT_DEFAULT)
    if not isinstance(alignment, int) or not 1 <= alignment <= _ALIGNMENT_MAX:
        raise GgufInvalid(f"its alignment is {str(alignment)[:40]}; 1 to {_ALIGNMENT_MAX} are allowed")
    data_bytes = reader.size - -(-reader.at // alignment) * alignment
    reached = 0
    for begin, size, _, name in sorted(places):
        if begin < reached:
            raise GgufInvalid(f"tensor {name[:80]!r} overlaps another one at {begin}")
        reached = begin + size
        if reached > data_bytes:
            raise GgufInvalid(f"tensor {name[:80]!r} ends at {reached} of {data_bytes} bytes of data: the file is cut")
    return sum(items for _, _, items, _ in places)


def _tensor(reader: _Reader) -> tuple[int, int, int, str]:
    """Where a tensor begins, its bytes, its items and its name."""
    name = reader.string(_NAME_BYTES_MAX)
    dimensions = reader.scalar("I")
    if dimensions > _DIMENSIONS_MAX:
        raise GgufInvalid(f"tensor {name[:80]!r} has {dimensions} dimensions; at most {_DIMENSIONS_MAX} are read")
    lengths = [int(reader.scalar("Q")) for _ in range(dimensions)]
    kind, offset = reader.scalar("I"), int(reader.scalar("Q"))
    if kind not in _BLOCKS:
        raise GgufInvalid(f"tensor {name[:80]!r} has type {kind}, which is unknown")
    block_items, block_bytes = _BLOCKS[kind]
    items = math.prod(lengths)
    if items % block_items:
        raise GgufInvalid(f"tensor {name[:80]!r} has {items} items, which are no whole blocks of {block_items}")
    return offset, items // block_items * block_bytes, items, name


def _facts(found: dict[str, Any]) -> GgufFacts:
    architecture = str(found.get("general.architecture", ""))
    if not architecture:
        raise GgufInvalid("its metadata name no architecture")

    def number(name: str) -> int:
        # Some models state one number a layer, which is told by none here.
        return _whole(found.get(f"{architecture}.{name}"))

    template = str(found.get("tokenizer.chat_template", ""))
    return GgufFacts(
        architecture=architecture,
        context_tokens=number("context_length"),
        chat_template=template if len(template) <= _TEMPLATE_CHARACTERS_MAX else "",
        # Where the engine begins the text itself, the template must not begin it once more.
        bos_token="" if _engine_adds_bos(found) else _token(found, "bos"),
        eos_token=_token(found, "eos"),
        state_bytes_per_token=_state_bytes(number),
        parameter_count=_whole(found.get("general.parameter_count")),
    )


def _state_bytes(number: Callable[[str], int]) -> int:
    """Keys and values of one token, two bytes a number."""
    heads = number("attention.head_count")
    width = number("embedding_length") // heads if heads else 0
    key, value = number("attention.key_length") or width, number("attention.value_length") or width
    return 2 * number("block_count") * (number("attention.head_count_kv") or heads) * (key + value)


def _engine_adds_bos(found: dict[str, Any]) -> bool:
    """Whether llama.cpp puts the token that begins a sequence before every prompt: as the file says, else as it guesses."""
    guessed = found.get("tokenizer.ggml.model") == "llama" or found.get("tokenizer.ggml.pre") in _BEGUN_BY_ENGINE
    return bool(found.get("tokenizer.ggml.add_bos_token", guessed))


def _token(found: dict[str, Any], kind: str) -> str:
    tokens, index = found.get(_TOKENS), found.get(f"tokenizer.ggml.{kind}_token_id")
    if not isinstance(tokens, list) or not isinstance(index, int) or not 0 <= index < len(tokens):
        return ""
    return str(tokens[index])


def _whole(value: Any) -> int:
    """A number that counts something; 0 where there is none."""
    return value if isinstance(value, int) and value > 0 else 0


def _metadata(reader: _Reader) -> tuple[dict[str, Any], int]:
    """The metadata, and how many tensors follow them."""
    if reader.take(4) != _MAGIC:
        raise GgufInvalid("it does not begin like a GGUF file")
    version = reader.scalar("I")
    if version not in _VERSIONS:
        raise GgufInvalid(f"it has version {version}; {' and '.join(map(str, _VERSIONS))} are read")
    tensor_count = int(reader.scalar("Q"))
    entries = reader.scalar("Q")
    if entries > _ENTRIES_MAX:
        raise GgufInvalid(f"it has {entries} metadata; at most {_ENTRIES_MAX} are read")
    found: dict[str, Any] = {}
    for _ in range(entries):
        name = reader.string(_NAME_BYTES_MAX)
        if name in found:
            raise GgufInvalid(f"its metadata name {name[:80]!r} twice")
        found[name] = reader.value(reader.scalar("I"), keep=name in _KEPT_ARRAYS)
    return found, tensor_count


class _Reader:
    """Reads on from the beginning; `at` is how far it has come."""

    def __init__(self, head: Buffer) -> None:
        self._head = head
        self.size = len(head)
        self.at = 0

    def take(self, length: int) -> bytes:
        self.skip(length)
        return self._head[self.at - length : self.at]

    def skip(self, length: int) -> None:
        if self.at + length > self.size:
            raise GgufIncomplete
        self.at += length

    def scalar(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]

    def string(self, bytes_max: int = _TEXT_BYTES_MAX) -> str:
        length = self.scalar("Q")
        if length > bytes_max:
            raise GgufInvalid(f"it has a text of {length} bytes; at most {bytes_max} are read")
        return self.take(length).decode(errors="replace")

    def value(self, kind: int, *, keep: bool) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array(keep=keep)
        return self.scalar(_form(kind))

    def _array(self, *, keep: bool) -> list[str] | None:
        kind, length = self.scalar("I"), self.scalar("Q")
        if length > _ITEMS_MAX:
            raise GgufInvalid(f"it has a list of {length} items; at most {_ITEMS_MAX} are read")
        if kind != _STRING:
            self.skip(length * struct.calcsize(f"<{_form(kind)}"))
            return None
        if keep:
            return [self.string() for _ in range(length)]
        for _ in range(length):
            self.skip(self.scalar("Q"))
        return None


def _form(kind: int) -> str:
    if kind not in _SCALARS:
        raise GgufInvalid(f"it has a value of type {kind}, which is unknown")
    return _SCALARS[kind]
