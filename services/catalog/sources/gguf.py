"""The head of a GGUF file: its metadata, which stand before the tensors."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from services.catalog.domain.hub import GgufFacts

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_STRING, _ARRAY = 8, 9
# Type number to struct format.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_ENTRIES_MAX, _ITEMS_MAX = 65_536, 16_777_216
_TEMPLATE_CHARACTERS_MAX = 65_536
_TOKENS = "tokenizer.ggml.tokens"
# Pre-tokenizers whose models llama.cpp begins itself where the file does not say.
_BEGUN_BY_ENGINE = {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "tekken"}
# Arrays whose items matter; the others are passed over.
_KEPT_ARRAYS = {_TOKENS}


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
    found = _metadata(head)
    architecture = str(found.get("general.architecture", ""))
    if not architecture:
        raise GgufInvalid("its metadata name no architecture")

    def number(name: str) -> int:
        value = found.get(f"{architecture}.{name}", 0)
        # Some models state one number a layer.
        return int(value) if isinstance(value, int) else 0

    template = str(found.get("tokenizer.chat_template", ""))
    return GgufFacts(
        architecture=architecture,
        context_tokens=number("context_length"),
        chat_template=template if len(template) <= _TEMPLATE_CHARACTERS_MAX else "",
        # Where the engine begins the text itself, the template must not begin it once more.
        bos_token="" if _engine_adds_bos(found) else _token(found, "bos"),
        eos_token=_token(found, "eos"),
        state_bytes_per_token=_state_bytes(number),
        parameter_count=int(found.get("general.parameter_count", 0)),
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
    tokens, index = found.get(_TOKENS, []), found.get(f"tokenizer.ggml.{kind}_token_id")
    return str(tokens[index]) if isinstance(index, int) and 0 <= index < len(tokens) else ""


def _metadata(head: bytes) -> dict[str, Any]:
    reader = _Reader(head)
    if reader.take(4) != _MAGIC:
        raise GgufInvalid("it does not begin like a GGUF file")
    version = reader.scalar("I")
    if version not in _VERSIONS:
        raise GgufInvalid(f"it has version {version}; {' and '.join(map(str, _VERSIONS))} are read")
    reader.scalar("Q")
    entries = reader.scalar("Q")
    if entries > _ENTRIES_MAX:
        raise GgufInvalid(f"it has {entries} metadata; at most {_ENTRIES_MAX} are read")
    found: dict[str, Any] = {}
    for _ in range(entries):
        name = reader.string()
        found[name] = reader.value(reader.scalar("I"), keep=name in _KEPT_ARRAYS)
    return found


class _Reader:
    def __init__(self, head: bytes) -> None:
        self._head = head
        self._at = 0

    def take(self, length: int) -> bytes:
        self.skip(length)
        return self._head[self._at - length : self._at]

    def skip(self, length: int) -> None:
        if self._at + length > len(self._head):
            raise GgufIncomplete
        self._at += length

    def scalar(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]

    def string(self) -> str:
        return self.take(self.scalar("Q")).decode(errors="replace")

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
