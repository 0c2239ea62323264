"""Immutable ids: UUIDv7 by time, UUIDv5 by content."""

from __future__ import annotations

import os
import time
import uuid

_NAMESPACE = uuid.UUID("6d6f6465-6c79-5172-8400-6d6f64656c79")


def new_uid(now_ms: int | None = None) -> str:
    """A UUIDv7 (RFC 9562) in lower-case hyphenated form; `now_ms` is UTC milliseconds, the wall clock by default."""
    milliseconds = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    bits = milliseconds << 80 | int.from_bytes(os.urandom(10), "big")
    bits = bits & ~(0xF << 76) | 0x7 << 76
    bits = bits & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=bits))


def uid_time_ms(uid: str) -> int:
    """UTC milliseconds inside a UUIDv7.

    Raises:
        ValueError: not a UUIDv7.
    """
    parsed = uuid.UUID(uid)
    if parsed.version != 7:
        raise ValueError(f"{uid!r} is a UUID of version {parsed.version}; version 7 carries a time")
    return parsed.int >> 80


def derived_uid(namespace: str, *parts: str) -> str:
    """The same UUIDv5 for the same parts, whoever computes it; parts may not hold a NUL."""
    return str(uuid.uuid5(_NAMESPACE, "\0".join((namespace, *parts))))
