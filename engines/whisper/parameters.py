"""Parameters of a transcription: the caller's JSON in, checked values out."""

from __future__ import annotations

import json
from dataclasses import dataclass

from engines.refusals import Refusal

PROMPT_CHARACTERS_MAX = 4096
LANGUAGES = ("en",)
_NAMES = ("language", "prompt", "temperature")


@dataclass(frozen=True)
class Parameters:
    """How a file is transcribed.

    Attributes:
        prompt: Text said before, for spelling and style; only its end fits the model.
        temperature: 0 takes the most probable words, and rises by itself where they make no sense.
    """

    prompt: str = ""
    temperature: float = 0.0


def read_parameters(text: str) -> Parameters:
    """The parameters of a request; a null value counts as absent.

    Raises:
        Refusal: no JSON object, an unknown name, or a value out of range.
    """
    try:
        given = json.loads(text or "{}")
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise Refusal("INVALID_PARAMETER", name="PARAMETERS", allowed="JSON_object")
    given = {name: value for name, value in given.items() if value is not None}
    if set(given) - set(_NAMES):
        raise Refusal("UNKNOWN_PARAMETER", name="in_PARAMETERS", allowed=",".join(_NAMES))
    if given.get("language", "en") not in LANGUAGES:
        raise Refusal("INVALID_PARAMETER", name="language", allowed=",".join(LANGUAGES))
    prompt, temperature = given.get("prompt", ""), given.get("temperature", 0)
    if not isinstance(prompt, str) or len(prompt) > PROMPT_CHARACTERS_MAX:
        raise Refusal("INVALID_PARAMETER", name="prompt", allowed=f"text_of_0..{PROMPT_CHARACTERS_MAX}_characters")
    is_number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not is_number or not 0 <= temperature <= 1:
        raise Refusal("INVALID_PARAMETER", name="temperature", allowed="0..1")
    return Parameters(prompt, float(temperature))
