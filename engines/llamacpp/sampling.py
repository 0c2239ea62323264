"""Sampling parameters of a text request: the caller's JSON in, llama.cpp's names out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from engines.refusals import Refusal

STOP_COUNT_MAX = 16
STOP_LENGTH_MAX = 256


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _stops(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= STOP_COUNT_MAX
        and all(isinstance(stop, str) and 0 < len(stop) <= STOP_LENGTH_MAX for stop in value)
    )


_PARAMETERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_tokens": (_whole(1, 2**31 - 1), "1..2147483647"),
    "temperature": (_number(0, 2), "0..2"),
    "top_p": (_number(0, 1), "0..1"),
    "seed": (_whole(-(2**63), 2**63 - 1), "integer"),
    "stop": (_stops, f"list_of_{STOP_COUNT_MAX}_texts_of_1..{STOP_LENGTH_MAX}_characters"),
    "frequency_penalty": (_number(-2, 2), "-2..2"),
    "presence_penalty": (_number(-2, 2), "-2..2"),
    "ignore_eos": (lambda value: isinstance(value, bool), "true|false"),
}


def completion_options(sampling_parameters: str) -> dict[str, Any]:
    """llama.cpp's completion options for a `sampling_parameters` text.

    Absent parameters have the OpenAI API's defaults (temperature 1, top_p 1, no top-k, no min-p), not llama.cpp's;
    an absent `max_tokens` lets the answer fill the context. A null value counts as absent.

    Args:
        sampling_parameters: A JSON object, or an empty text for no parameters.

    Raises:
        Refusal: the text is no JSON object, a parameter is unknown, or its value is out of range.
    """
    try:
        given = json.loads(sampling_parameters or "{}")
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise Refusal("INVALID_PARAMETER", name="sampling_parameters", allowed="JSON_object")
    given = {name: value for name, value in given.items() if value is not None}
    options: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
    for name, value in given.items():
        if name not in _PARAMETERS:
            raise Refusal("UNKNOWN_PARAMETER", name=_printable(name), allowed=",".join(_PARAMETERS))
        allows, allowed = _PARAMETERS[name]
        if not allows(value):
            raise Refusal("INVALID_PARAMETER", name=name, allowed=allowed)
        # llama.cpp reads the seed into 32 bits; -1 would ask it for a random one.
        options[name] = value & 0x7FFFFFFF if name == "seed" else value
    return options


def _printable(name: str) -> str:
    """A caller's parameter name as one short word: it goes into an error text."""
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_-.") else "?" for letter in name)[
        :64
    ]
