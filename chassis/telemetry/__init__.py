"""What a process tells of itself: logs, traces, metrics."""

from chassis.telemetry.logs import Logger, configure_logging, get_logger, request_id
from chassis.telemetry.metrics import MetricsServer, observe
from chassis.telemetry.traces import (
    Tracing,
    annotate,
    configure_tracing,
    current_trace_id,
    span,
    traceparent,
)

__all__ = [
    "Logger",
    "MetricsServer",
    "Tracing",
    "annotate",
    "configure_logging",
    "configure_tracing",
    "current_trace_id",
    "get_logger",
    "observe",
    "request_id",
    "span",
    "traceparent",
]
