"""The life of a service process: start, supervised tasks, ready file, clean stop."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

from chassis.clock import SystemClock
from chassis.rpc.server import check_listener
from chassis.settings import ServiceSettings
from chassis.telemetry import MetricsServer, configure_logging, configure_tracing, get_logger

log = get_logger(__name__)

# New objects, and collections of younger ones, after which the collector looks for cycles. What waits to be found is
# 100,000 objects, some 10 MB, at most; more would be no cheaper and make each look longer.
_GC_THRESHOLDS = (20_000, 5, 10)


_CANCEL_AGAIN_S = 0.5


class ServiceContext:
    """What a service's main has at hand."""

    def __init__(self, name: str, settings: ServiceSettings) -> None:
        self.name = name
        self.settings = settings
        self.clock = SystemClock()
        self.stop_event = asyncio.Event()
        self.is_ready = False
        self.failed = False
        self.metrics_url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a task for the service's life; one that ends by an error ends the service, loudly."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        self.failed = True
        log.error("task ended the service", task=task.get_name(), error=f"{type(error).__name__}: {error}")
        logging_traceback(error)
        self.stop_event.set()

    def ready(self, addresses: dict[str, str]) -> None:
        """Say where the service answers."""
        self.is_ready = True
        facts = {"service": self.name, "pid": os.getpid(), "metrics": self.metrics_url, **addresses}
        if self.settings.ready_file is not None:
            write_atomically(self.settings.ready_file, json.dumps(facts))
        log.info("ready", **facts)
        # What is there now stays: looking through it again for every few hundred new objects costs calls their time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)

    async def close(self) -> None:
        """Cancel what still runs and wait for it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def logging_traceback(error: BaseException) -> None:
    """Log where an error came from."""
    try:
        raise error
    except BaseException:
        log.exception("traceback")


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file as a whole: readers see the old text or the new one, never half; durable on return."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(handle, mode)
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def run_service(name: str, settings: ServiceSettings, main: Callable[[ServiceContext], Awaitable[None]]) -> None:
    """Run a service until a signal, the end of its parent, or the failure of one of its tasks; then exit.

    `main` starts everything, calls `ready` and waits for `stop_event`; it cleans up what it started.
    """
    configure_logging(name, settings.log_level)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def live() -> bool:
        context = ServiceContext(name, settings)
        if settings.metrics_address:
            check_listener(settings.metrics_address, has_tls=False, insecure=settings.insecure)
        metrics = MetricsServer(name, settings.metrics_address)
        context.metrics_url = metrics.url
        tracing = configure_tracing(name, settings.otlp_endpoint, ratio=settings.trace_ratio)
        loop = asyncio.get_running_loop()
        for caught in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(caught, context.stop_event.set)
        if parent := os.environ.get("MODELYARD_PARENT_PID"):
            context.spawn(_stop_with_parent(context, int(parent)), "parent watch")
        try:
            await _run_main(main, context)
        finally:
            await context.close()
            metrics.close()
            tracing.close()
        return context.failed

    try:
        failed = uvloop.run(live())
    except Exception as error:  # noqa: BLE001 - the last place that can say why the process ends
        log.error("service failed", error=f"{type(error).__name__}: {error}")
        logging_traceback(error)
        failed = True
    sys.exit(1 if failed else 0)


async def _run_main(main: Callable[[ServiceContext], Awaitable[None]], context: ServiceContext) -> None:
    """Run it to its end. Until it is ready it does not look whether it should stop, and may wait for ever for NATS or a
    database: what tells it to stop then ends it."""
    running = asyncio.ensure_future(main(context))
    stop = asyncio.create_task(context.stop_event.wait())
    try:
        await asyncio.wait([running, stop], return_when=asyncio.FIRST_COMPLETED)
        while not context.is_ready and not running.done():
            # A wait that ends at the same moment may swallow it.
            running.cancel()
            await asyncio.wait([running], timeout=_CANCEL_AGAIN_S)
        if running.cancelled():
            log.info("stopped before it was ready")
        else:
            await running
    finally:
        stop.cancel()


async def _stop_with_parent(context: ServiceContext, parent: int) -> None:
    """A supervisor that was killed cannot stop its services, so they look for it."""
    while os.getppid() == parent:  # noqa: ASYNC110 - no event says that a parent is gone
        await asyncio.sleep(1.0)
    log.warning("the supervisor is gone; stopping", parent=parent)
    context.stop_event.set()
