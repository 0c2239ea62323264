"""What is measured of calls, named by OpenTelemetry's conventions for generative AI.

Models are named by version, never by endpoint: the number of series must not grow with the number of tenants.
"""

from __future__ import annotations

import time

from modelyard.catalog.v1 import providers_pb2
from modelyard.deploy.v1 import routes_pb2

from chassis.telemetry import annotate
from chassis.telemetry.metrics import DURATION_BUCKETS_S, TOKEN_BUCKETS, Histogram
from services.inference.domain.usage import Counts, Outcome

_CALL = ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model")
_DURATION = Histogram(
    "gen_ai.server.request.duration",
    unit="s",
    description="From admission to settlement.",
    attributes=(*_CALL, "modelyard.outcome"),
    buckets=DURATION_BUCKETS_S,
)
_FIRST_TOKEN = Histogram(
    "gen_ai.server.time_to_first_token.duration",
    unit="s",
    description="From admission to the first piece of output.",
    attributes=_CALL,
    buckets=DURATION_BUCKETS_S,
)
_TOKENS = Histogram(
    "gen_ai.client.token.usage",
    unit="{token}",
    description="Tokens of one call as they are billed.",
    attributes=(*_CALL, "gen_ai.token.type"),
    buckets=TOKEN_BUCKETS,
)
# Who answers, as the conventions name them; where it is no provider, this platform does.
_PROVIDERS = {
    providers_pb2.PROVIDER_KIND_OPENAI: "openai",
    providers_pb2.PROVIDER_KIND_AZURE_OPENAI: "azure.ai.openai",
}


class CallMeasure:
    """One call, from its admission to its settlement."""

    def __init__(self, operation: str, deployment: routes_pb2.RouteDeployment) -> None:
        self._began_s = time.monotonic()
        self._is_first = True
        self._call = (operation, _PROVIDERS.get(deployment.provider.kind, "modelyard"), deployment.model_version)

    @property
    def attributes(self) -> dict[str, str]:
        """What a trace says of the call from its beginning on."""
        return dict(zip(_CALL, self._call, strict=True))

    def output(self) -> None:
        """A piece of output came."""
        if self._is_first:
            self._is_first = False
            _FIRST_TOKEN.record(time.monotonic() - self._began_s, *self._call)

    def settled(self, outcome: Outcome, billed: Counts, record_id: str) -> None:
        """The call has ended."""
        annotate(
            {
                "gen_ai.response.id": record_id,
                "gen_ai.usage.input_tokens": billed.input_tokens,
                "gen_ai.usage.output_tokens": billed.output_tokens,
                "modelyard.usage.audio_milliseconds": billed.audio_milliseconds,
                "modelyard.usage.images": billed.images,
                "modelyard.outcome": outcome.name,
            }
        )
        _DURATION.record(time.monotonic() - self._began_s, *self._call, outcome.name)
        for kind, tokens in (("input", billed.input_tokens), ("output", billed.output_tokens)):
            if tokens:
                _TOKENS.record(tokens, *self._call, kind)
