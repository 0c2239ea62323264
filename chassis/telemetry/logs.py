"""Logs as JSON, with the request id, and the trace id where one is made, in every line."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from chassis.telemetry.traces import current_trace_id

request_id: ContextVar[str] = ContextVar("request_id", default="")


class _JsonLines(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "msg": record.getMessage(),
        }
        if current := request_id.get():
            line["request_id"] = current
        if trace := current_trace_id():
            line["trace_id"] = trace
        line.update(getattr(record, "values", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Logger:
    """A logger whose calls take values by name: `log.info("published", rows=12)`.

    Values are ids, counts and names; never a credential, a prompt or a completion.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, message: str, **values: object) -> None:
        self._logger.debug(message, extra={"values": values})

    def info(self, message: str, **values: object) -> None:
        self._logger.info(message, extra={"values": values})

    def warning(self, message: str, **values: object) -> None:
        self._logger.warning(message, extra={"values": values})

    def error(self, message: str, **values: object) -> None:
        self._logger.error(message, extra={"values": values})

    def exception(self, message: str, **values: object) -> None:
        """An error with the traceback of the exception that is being handled."""
        self._logger.error(message, extra={"values": values}, exc_info=True)


def get_logger(name: str) -> Logger:
    """The logger of one module."""
    return Logger(name)


def configure_logging(service: str, level: str) -> None:
    """One JSON object a line on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("nats", "uvicorn.access", "alembic", "sqlalchemy.engine"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
