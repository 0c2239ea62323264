"""Heads of files that strangers made are read or refused, whatever is in them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from engines.safetensors.tensors import TensorsInvalid, read_tensors
from services.catalog.domain.formats.gguf import GgufIncomplete, GgufInvalid, read_gguf_head
from services.catalog.sources.hub.cards import CardInvalid, read_card

texts = st.text(max_size=12)
names = st.sampled_from(
    ["general.architecture", "llama.context_length", "tokenizer.ggml.tokens", "tokenizer.ggml.bos_token_id"]
)


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


@st.composite
def values(draw: st.DrawFn) -> bytes:
    """A metadata value of any type, sometimes with a length that is not there."""
    kind = draw(st.integers(0, 13))
    if kind == 8:
        return struct.pack("<I", kind) + _text(draw(texts))
    if kind == 9:
        items = draw(st.lists(texts, max_size=4))
        count = draw(st.sampled_from([len(items), len(items) + 1, 1 << 30]))
        return struct.pack("<IIQ", kind, draw(st.sampled_from([8, 4, 9])), count) + b"".join(map(_text, items))
    return struct.pack("<I", kind) + draw(st.binary(min_size=1, max_size=8))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(names | texts, values()), max_size=6), st.binary(max_size=16))
def test_any_gguf_head_is_read_or_refused(entries: list[tuple[str, bytes]], rest: bytes) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries))
    head += b"".join(_text(name) + value for name, value in entries) + rest
    try:
        facts = read_gguf_head(head)
    except (GgufInvalid, GgufIncomplete):
        return
    assert min(facts.context_tokens, facts.state_bytes_per_token, facts.parameter_count) >= 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
tensors = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "Q4"]) | json_values,
        "shape": st.lists(st.integers(-2, 9), max_size=3) | json_values,
        "data_offsets": st.tuples(st.integers(-4, 99), st.integers(-4, 99)).map(list) | json_values,
    }
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(texts, tensors | json_values, max_size=3) | json_values, st.binary(max_size=64))
def test_any_safetensors_head_is_read_or_refused(header: object, data: bytes) -> None:
    """A tensor that is read lies inside its file."""
    text = json.dumps(header).encode()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        try:
            found = read_tensors(path)
        except TensorsInvalid:
            return
        for tensor in found.values():
            assert 0 <= tensor.offset <= tensor.offset + tensor.size <= path.stat().st_size


@settings(max_examples=200, deadline=None)
@given(json_values, texts)
def test_any_front_matter_is_read_or_refused(data: object, text: str) -> None:
    """JSON is YAML; results of any form are taken or counted."""
    try:
        card = read_card(f"---\n{json.dumps({'model-index': data, 'license': data})}\n---\n{text}", "https://hub/card")
    except CardInvalid:
        return
    assert all(count > 0 for count in card.dropped.values())
    assert len(card.summary) <= 302
