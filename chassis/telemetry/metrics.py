"""Metrics by OpenTelemetry, read by Prometheus at `/metrics` of each process.

Instruments are made where they are used, from `meter`, and histograms as `Histogram`; names and units follow
OpenTelemetry's semantic conventions, and what is ours alone begins with `modelyard.`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from wsgiref.simple_server import WSGIServer

import prometheus_client
from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import REGISTRY, start_http_server

# Seconds; from a quick call on loopback to the longest one that is allowed.
DURATION_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180)
TOKEN_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)

meter = metrics.get_meter("modelyard")


class Histogram:
    """Amounts counted in buckets, by attributes.

    Calls record several each, and OpenTelemetry's own histogram takes several times as long. What Prometheus reads is
    named as its exporter names it.

    Args:
        attributes: What each amount is told apart by; few values each.
        buckets: Upper bounds, ascending.
    """

    # Set where metrics are served; without them a call pays for none.
    is_counting = False

    def __init__(
        self, name: str, *, unit: str, description: str, attributes: Sequence[str] = (), buckets: Sequence[float]
    ) -> None:
        suffix = {"s": "_seconds"}.get(unit, "")
        labels = [_prometheus_name(attribute) for attribute in attributes]
        self._amounts = prometheus_client.Histogram(
            _prometheus_name(name) + suffix, description, labels, buckets=buckets, registry=REGISTRY
        )
        self._by_values: dict[tuple[str | int, ...], prometheus_client.Histogram] = {}

    def record(self, amount: float, *values: str | int) -> None:
        """Count an amount; the values are those of `attributes`, in that order."""
        if not Histogram.is_counting:
            return
        amounts = self._by_values.get(values)
        if amounts is None:
            amounts = self._by_values[values] = self._amounts.labels(*values) if values else self._amounts
        amounts.observe(amount)


def _prometheus_name(name: str) -> str:
    return name.replace(".", "_")


def observe(name: str, read: Callable[[], float], *, unit: str, description: str) -> None:
    """A gauge that is read when Prometheus asks, from a thread of its own."""

    def callback(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(read())]

    meter.create_observable_gauge(name, callbacks=[callback], unit=unit, description=description)


class MetricsServer:
    """Serves `/metrics` on a thread. Histograms count from then on; what other instruments said before counts too.

    Args:
        address: `host:port`; port 0 takes a free one. Empty: nothing is measured and nothing listens.
    """

    def __init__(self, service: str, address: str) -> None:
        self.url = ""
        self._provider: MeterProvider | None = None
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None
        if not address:
            return
        self._provider = MeterProvider(
            metric_readers=[PrometheusMetricReader()],
            resource=Resource.create({"service.name": f"modelyard-{service}"}),
            shutdown_on_exit=False,
        )
        metrics.set_meter_provider(self._provider)
        Histogram.is_counting = True
        # A series more for each histogram, which says when it began.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        host, _, port = address.rpartition(":")
        self._server, self._thread = start_http_server(int(port), addr=host.strip("[]"))
        self.url = f"http://{host}:{self._server.server_port}/metrics"

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        if self._thread is not None:
            self._thread.join()
        if self._provider is not None:
            self._provider.shutdown()
