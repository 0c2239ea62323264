"""Refusals that a gateway can read: one upper-case reason, then `key=value` pairs, in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping

_PAIR = re.compile(r"(\w+)=([^\s;]+)")


class Refusal(Exception):
    """A request the engine does not take; its text holds lengths and names, never the caller's text.

    Args:
        reason: UPPER_SNAKE word the gateway switches on.
        facts: Values without spaces, in the order they are written.
    """

    def __init__(self, reason: str, **facts: int | str) -> None:
        super().__init__(" ".join([reason, *(f"{key}={value}" for key, value in facts.items())]))
        self.reason = reason


def prompt_too_long(prompt_tokens: int, context_tokens: int, **facts: int | str) -> Refusal:
    """Input of `prompt_tokens` for an engine whose input and output together hold `context_tokens`."""
    return Refusal("PROMPT_TOO_LONG", prompt_tokens=prompt_tokens, context_tokens=context_tokens, **facts)


def read_refusal(text: str) -> tuple[str, Mapping[str, str]]:
    """Reason and facts of a refusal's text, wherever in a longer message it stands; ("", {}) where there is none."""
    found = re.search(r"\b([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)\b((?: \w+=[^\s;]+)*)", text)
    if found is None:
        return "", {}
    return found[1], dict(_PAIR.findall(found[2]))
