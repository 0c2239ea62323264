"""Prompts from chat messages, by the model's own template, in a sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.inference.domain.calls import Message
from services.inference.domain.errors import RequestInvalid

PROMPT_CHARACTERS_MAX = 8 * 1024 * 1024


class TemplateRefused(Exception):
    """What a template says by `raise_exception`."""


def _raise_exception(message: str) -> None:
    raise TemplateRefused(message)


_environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
_environment.globals["raise_exception"] = _raise_exception


@lru_cache(maxsize=64)
def _compiled(template: str) -> Template:
    return _environment.from_string(template)


def render_prompt(template: str, messages: Sequence[Message], *, bos_token: str, eos_token: str) -> str:
    """The text the model was trained to answer.

    Raises:
        RequestInvalid: the model has no template, or its template refuses these messages.
    """
    if not template:
        raise RequestInvalid("the model has no chat template and takes no messages", field="messages")
    try:
        prompt: str = _compiled(template).render(
            messages=[{"role": message.role, "content": message.content} for message in messages],
            add_generation_prompt=True,
            bos_token=bos_token,
            eos_token=eos_token,
        )
    except Exception:  # noqa: BLE001 - a template is a program of the model's maker and may fail in any way
        # The reason may quote the messages, so it is not passed on.
        raise RequestInvalid(
            "the model's chat template does not take these messages; check the order of their roles", field="messages"
        ) from None
    if len(prompt) > PROMPT_CHARACTERS_MAX:
        raise RequestInvalid(
            f"the prompt has {len(prompt)} characters; at most {PROMPT_CHARACTERS_MAX} are allowed", field="messages"
        )
    return prompt
