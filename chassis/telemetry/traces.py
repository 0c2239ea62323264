"""Traces by OpenTelemetry, sent over OTLP. Without a receiver nothing is made, and a span costs one comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

Attributes = Mapping[str, str | int | float | bool]

_HEADER = "traceparent"
_NOTHING = nullcontext()
_PROPAGATOR = TraceContextTextMapPropagator()


class Tracing:
    """Where this process sends its spans; `configure_tracing` makes it, once."""

    current: Tracer | None = None

    def __init__(self, provider: TracerProvider | None) -> None:
        self._provider = provider

    def close(self) -> None:
        """Send what is left; spans that are made later are dropped."""
        Tracing.current = None
        if self._provider is not None:
            self._provider.shutdown()


def configure_tracing(
    service: str, endpoint: str, *, ratio: float, queue_spans_max: int = 4096, timeout_s: float = 5.0
) -> Tracing:
    """Send spans to an OTLP receiver (gRPC); an empty endpoint switches traces off.

    Args:
        service: `service.name` of every span.
        endpoint: `http://host:port`, or `https://host:port` with the machine's own authorities.
        ratio: Share of traces that begin here and are kept, 0 to 1; a caller's decision stands.
        queue_spans_max: Spans kept while the receiver is slow or away; further ones are dropped.
        timeout_s: Longest attempt to send a batch.
    """
    if not endpoint:
        return Tracing(None)
    provider = TracerProvider(
        resource=Resource.create({"service.name": f"modelyard-{service}", "service.namespace": "modelyard"}),
        sampler=ParentBased(TraceIdRatioBased(ratio)),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=timeout_s)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=queue_spans_max, schedule_delay_millis=500))
    Tracing.current = provider.get_tracer("modelyard")
    return Tracing(provider)


def span(
    name: str,
    attributes: Attributes | None = None,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: str = "",
    links: Sequence[str] = (),
) -> AbstractContextManager[None]:
    """A traced section. An exception that leaves it marks it as failed, by its type alone: messages may name values.

    Args:
        attributes: Named by OpenTelemetry's semantic conventions; ids and counts, never a prompt or a credential.
        parent: `traceparent` of the caller; empty means the section that runs now, or a new trace.
        links: `traceparent`s of what led here without being the caller, such as the records of a batch.
    """
    tracer = Tracing.current
    return _NOTHING if tracer is None else _span(tracer, name, attributes, kind, parent, links)


@contextmanager
def _span(
    tracer: Tracer, name: str, attributes: Attributes | None, kind: SpanKind, parent: str, links: Sequence[str]
) -> Iterator[None]:
    linked = [context for context in map(_span_context, links) if context.is_valid]
    with tracer.start_as_current_span(
        name,
        context=_context(parent) if parent else None,
        kind=kind,
        attributes=attributes,
        links=[Link(context) for context in linked],
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        try:
            yield
        except Exception as error:
            made.set_attribute("error.type", type(error).__name__)
            made.set_status(trace.StatusCode.ERROR)
            raise


def annotate(attributes: Attributes) -> None:
    """Add to the section that runs now what was not known when it began."""
    if Tracing.current is not None:
        trace.get_current_span().set_attributes(attributes)


def traceparent() -> str:
    """The section that runs now as a W3C `traceparent`, to be handed on; empty while nothing is traced."""
    if Tracing.current is None:
        return ""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get(_HEADER, "")


def current_trace_id() -> str:
    """32 hex digits; empty while nothing is traced."""
    if Tracing.current is None:
        return ""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


def _context(parent: str) -> Context:
    return _PROPAGATOR.extract({_HEADER: parent})


def _span_context(parent: str) -> trace.SpanContext:
    return trace.get_current_span(_context(parent)).get_span_context()
