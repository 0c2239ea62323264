"""Counting tokens from llama.cpp's streamed events."""

from __future__ import annotations

from typing import Any

import pytest

from engines.llamacpp.generation import EngineFailure, Generation
from engines.refusals import Refusal, read_refusal


def token(text: str, made: int) -> dict[str, Any]:
    return {
        "choices": [{"text": text, "finish_reason": None}],
        "timings": {"cache_n": 4, "prompt_n": 9, "predicted_n": made},
    }


LAST = {
    "choices": [{"text": "", "finish_reason": "length"}],
    "usage": {"prompt_tokens": 13, "completion_tokens": 5},
    "timings": {"cache_n": 4, "prompt_n": 9, "predicted_n": 5},
}


def test_the_prompts_length_is_known_before_the_first_token() -> None:
    generation = Generation()
    progress = {"prompt_progress": {"total": 13, "processed": 2}, "timings": {"cache_n": 0, "prompt_n": 2}}
    assert generation.take({"choices": [{"text": ""}], **progress}) == ""
    assert (generation.input_tokens, generation.output_tokens) == (13, 0)


def test_deltas_count_tokens_held_back_and_add_up() -> None:
    generation = Generation()
    deltas = []
    for event in (token("a", 1), token("", 2), token("", 3), token("bc", 4), LAST):
        if generation.take(event) or generation.finish_reason:
            deltas.append(generation.untold_output_tokens())
    assert deltas == [1, 3, 1]
    assert (generation.input_tokens, generation.output_tokens, generation.finish_reason) == (13, 5, "length")


def test_a_prompt_too_long_names_both_lengths() -> None:
    error = {"code": 400, "type": "exceed_context_size_error", "message": "...", "n_prompt_tokens": 9001, "n_ctx": 2048}
    with pytest.raises(Refusal) as refused:
        Generation().take({"error": error})
    assert str(refused.value) == "PROMPT_TOO_LONG prompt_tokens=9001 context_tokens=2048"


@pytest.mark.parametrize(("code", "kind"), [(400, Refusal), (500, EngineFailure), (503, EngineFailure)])
def test_an_error_never_repeats_llamacpps_message(code: int, kind: type[Exception]) -> None:
    """The message may quote the prompt."""
    with pytest.raises(kind) as raised:
        Generation().take({"error": {"code": code, "type": "some error", "message": "the prompt was: secret"}})
    assert "secret" not in str(raised.value)
    assert "some_error" in str(raised.value)


def test_a_refusal_is_read_from_a_longer_message() -> None:
    text = "in ensemble, request failed: PROMPT_TOO_LONG prompt_tokens=7 context_tokens=5; and so on"
    assert read_refusal(text) == ("PROMPT_TOO_LONG", {"prompt_tokens": "7", "context_tokens": "5"})
    assert read_refusal("something else") == ("", {})
