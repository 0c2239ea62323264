"""Identifiers: time-ordered random ones, and ones derived from what they name."""

from __future__ import annotations

import os
import threading
import time
import uuid

_COUNTER_BITS = 12
_COUNTER_END = 1 << _COUNTER_BITS


class _Sequence:
    """Issues (millisecond, counter) pairs that only grow, also when the wall clock steps back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._time_ms = 0
        self._counter = 0

    def take(self) -> tuple[int, int]:
        with self._lock:
            now_ms = time.time_ns() // 1_000_000
            if now_ms > self._time_ms:
                # Half the range is random, so ids of different processes rarely share a counter.
                self._time_ms = now_ms
                self._counter = int.from_bytes(os.urandom(2)) % (_COUNTER_END // 2)
            else:
                self._counter += 1
                if self._counter == _COUNTER_END:
                    self._time_ms += 1
                    self._counter = 0
            return self._time_ms, self._counter


_SEQUENCE = _Sequence()


def new_uid(now_ms: int | None = None) -> str:
    """Make a UUIDv7 (RFC 9562), lower case with hyphens.

    Within a process ids made without `now_ms` sort in the order they were made.

    Args:
        now_ms: Unix milliseconds to stamp it with, 0 to 2^48 - 1; the wall clock when None.
    """
    if now_ms is None:
        now_ms, counter = _SEQUENCE.take()
    else:
        if not 0 <= now_ms < 1 << 48:
            raise ValueError(f"time {now_ms} ms does not fit a UUIDv7; 0 to 2^48 - 1 does")
        counter = int.from_bytes(os.urandom(2)) % _COUNTER_END
    tail = int.from_bytes(os.urandom(8)) & ((1 << 62) - 1)
    digits = f"{now_ms << 80 | 0x7 << 76 | counter << 64 | 0b10 << 62 | tail:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def uid_time_ms(uid: str) -> int:
    """Unix milliseconds inside a UUIDv7.

    Raises:
        ValueError: it is no UUIDv7.
    """
    value = uuid.UUID(uid)
    if value.version != 7:
        raise ValueError(f'"{uid}" is no UUIDv7')
    return value.int >> 80


def derived_uid(namespace: str, *parts: str) -> str:
    """Make the same id for the same parts, everywhere (UUIDv5). Parts are never confused by their joints."""
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return str(uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_URL, f"urn:modelyard:{namespace}"), joined))
