"""What a call says beside its answer, over HTTP as headers and over gRPC as trailing metadata, also of a refusal."""

from __future__ import annotations

from contextvars import ContextVar

_headers: ContextVar[dict[str, str] | None] = ContextVar("answer_headers", default=None)


def begin_answer() -> dict[str, str]:
    """For servers, when a call begins: what is said from here on, also by tasks that the call starts."""
    said: dict[str, str] = {}
    _headers.set(said)
    return said


def say_beside_answer(name: str, value: str) -> None:
    """Say something beside the answer of the call that runs now; outside of one nothing happens.

    Args:
        name: Lower case, letters and dashes.
        value: Printable ASCII.
    """
    said = _headers.get()
    if said is not None:
        said[name] = value
