"""Inference with every span and every instrument taken out, to be compared with telemetry that is switched off.

python -m bench.uninstrumented
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

_NOTHING: AbstractContextManager[None] = nullcontext()


class _NoInstrument:
    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, *_: Any) -> None: ...

    add = set = record


class _NoMeter:
    create_counter = create_gauge = create_observable_gauge = _NoInstrument


class _NoMeasure:
    def __init__(self, *_: Any) -> None:
        self.attributes: dict[str, Any] = {}

    def output(self) -> None: ...

    def settled(self, *_: Any) -> None: ...


def _take_out() -> None:
    """Replace what modules take from the chassis, before any of them does."""
    import chassis.telemetry
    import chassis.telemetry.metrics as metrics

    empty: Any = ""
    metrics.meter = _NoMeter()  # type: ignore[assignment]
    metrics.Histogram = _NoInstrument  # type: ignore[assignment,misc]
    chassis.telemetry.span = lambda *_, **__: _NOTHING
    chassis.telemetry.annotate = lambda *_: None
    chassis.telemetry.traceparent = lambda: empty
    import services.inference.usecases.measures as measures

    measures.CallMeasure = _NoMeasure  # type: ignore[assignment,misc]


if __name__ == "__main__":
    _take_out()
    from chassis.service import run_service
    from services.inference.main import main
    from services.inference.settings import InferenceSettings

    settings = InferenceSettings()
    run_service("inference", settings, lambda context: main(context, settings))
