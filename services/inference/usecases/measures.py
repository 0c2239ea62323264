"""What is measured of calls, named by OpenTelemetry's conventions for generative AI.

Models are named by version, never by endpoint: the number of series must not grow with the number of tenants.
"""

from __future__ import annotations

import time

from chassis.telemetry import annotate
from chassis.telemetry.metrics import meter
from services.inference.domain.usage import Counts, Outcome

_DURATION = meter.create_histogram(
    "gen_ai.server.request.duration", unit="s", description="From admission to settlement."
)
_FIRST_TOKEN = meter.create_histogram(
    "gen_ai.server.time_to_first_token.duration", unit="s", description="From admission to the first piece of output."
)
_TOKENS = meter.create_histogram(
    "gen_ai.client.token.usage", unit="{token}", description="Tokens of one call as they are billed."
)


class CallMeasure:
    """One call, from its admission to its settlement."""

    def __init__(self, operation: str, model_version: str) -> None:
        self._began_s = time.monotonic()
        self._is_first = True
        self.attributes: dict[str, str | int | float | bool] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "modelyard",
            "gen_ai.request.model": model_version,
        }

    def output(self) -> None:
        """A piece of output came."""
        if self._is_first:
            self._is_first = False
            _FIRST_TOKEN.record(time.monotonic() - self._began_s, self.attributes)

    def settled(self, outcome: Outcome, billed: Counts, record_id: str) -> None:
        """The call has ended."""
        annotate(
            {
                "gen_ai.response.id": record_id,
                "gen_ai.usage.input_tokens": billed.input_tokens,
                "gen_ai.usage.output_tokens": billed.output_tokens,
                "modelyard.outcome": outcome.name,
            }
        )
        _DURATION.record(time.monotonic() - self._began_s, {**self.attributes, "modelyard.outcome": outcome.name})
        for kind, tokens in (("input", billed.input_tokens), ("output", billed.output_tokens)):
            if tokens:
                _TOKENS.record(tokens, {**self.attributes, "gen_ai.token.type": kind})
