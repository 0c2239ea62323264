"""Sampling parameters: OpenAI's defaults, ranges, refusals by name."""

from __future__ import annotations

import pytest

from engines.llamacpp.sampling import completion_options
from engines.refusals import Refusal, read_refusal


def test_absent_parameters_have_openais_defaults() -> None:
    assert completion_options("") == {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}


def test_given_parameters_are_kept() -> None:
    given = '{"max_tokens": 5, "stop": ["a"], "ignore_eos": true, "frequency_penalty": 0.5, "seed": 3}'
    options = completion_options(given)
    assert {name: options[name] for name in ("max_tokens", "stop", "ignore_eos", "frequency_penalty", "seed")} == {
        "max_tokens": 5,
        "stop": ["a"],
        "ignore_eos": True,
        "frequency_penalty": 0.5,
        "seed": 3,
    }


def test_null_counts_as_absent() -> None:
    assert completion_options('{"stop": null, "unknown": null}') == completion_options("{}")


def test_a_negative_seed_is_a_seed_and_not_a_random_one() -> None:
    """llama.cpp takes -1 for "choose one"."""
    assert completion_options('{"seed": -1}')["seed"] == 0x7FFFFFFF


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"temperature": 2.5}', "temperature"),
        ('{"temperature": true}', "temperature"),
        ('{"top_p": "1"}', "top_p"),
        ('{"max_tokens": 0}', "max_tokens"),
        ('{"max_tokens": 1.5}', "max_tokens"),
        ('{"stop": "a"}', "stop"),
        ('{"stop": [""]}', "stop"),
        ('{"presence_penalty": -3}', "presence_penalty"),
        ('{"ignore_eos": 1}', "ignore_eos"),
        ("[1]", "sampling_parameters"),
        ("no json", "sampling_parameters"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(text: str, name: str) -> None:
    with pytest.raises(Refusal) as refused:
        completion_options(text)
    reason, facts = read_refusal(str(refused.value))
    assert (reason, facts["name"]) == ("INVALID_PARAMETER", name)


def test_an_unknown_parameter_is_refused_and_its_name_made_harmless() -> None:
    with pytest.raises(Refusal) as refused:
        completion_options('{"x y\\nz": 1}')
    assert read_refusal(str(refused.value))[1]["name"] == "x?y?z"
