"""One generation as llama.cpp reports it: text pieces and token counts from its streamed events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines.refusals import Refusal, prompt_too_long

# Asked of llama.cpp on every call: counts with each piece, and the prompt's length before the first one.
REPORTING = {
    "stream": True,
    "stream_options": {"include_usage": True},
    "timings_per_token": True,
    "return_progress": True,
}


class EngineFailure(Exception):
    """llama.cpp ended a request for a reason of its own; the text names its error type, never the prompt."""


@dataclass
class Generation:
    """Counts of one request so far.

    `output_tokens` counts every token the model made, the end-of-sequence token included; a piece of text may stand
    for several of them (a character of several tokens, a held-back possible stop), so pieces are never counted.
    """

    input_tokens: int | None = None
    output_tokens: int = 0
    finish_reason: str = ""
    _told: int = 0

    def take(self, event: Mapping[str, Any]) -> str:
        """Read one streamed event.

        Returns:
            The text it adds, possibly empty, always whole characters.

        Raises:
            Refusal: the prompt does not fit the context, or llama.cpp refuses the request.
            EngineFailure: llama.cpp failed.
        """
        if "error" in event:
            raise _error(event["error"])
        progress, timings, usage = event.get("prompt_progress"), event.get("timings"), event.get("usage")
        if progress:
            self.input_tokens = int(progress["total"])
        elif timings:
            self.input_tokens = int(timings["cache_n"]) + int(timings["prompt_n"])
            self.output_tokens = max(self.output_tokens, int(timings["predicted_n"]))
        if usage:
            self.input_tokens = int(usage["prompt_tokens"])
            self.output_tokens = int(usage["completion_tokens"])
        text = ""
        for choice in event.get("choices") or ():
            text += choice.get("text") or ""
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        return text

    def untold_output_tokens(self) -> int:
        """Tokens made since the last call of this method; their sum over a request is its final count."""
        untold, self._told = self.output_tokens - self._told, self.output_tokens
        return untold


def _error(error: Mapping[str, Any]) -> Exception:
    if error.get("type") == "exceed_context_size_error":
        return prompt_too_long(int(error["n_prompt_tokens"]), int(error["n_ctx"]))
    code = error.get("code", 500)
    # The message is left out: it may quote the request.
    kind = str(error.get("type", "unknown")).replace(" ", "_")
    if code == 400:
        return Refusal("REQUEST_REFUSED", type=kind)
    return EngineFailure(f"ENGINE_FAILED type={kind} code={code}")
