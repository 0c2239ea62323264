"""Memory that a process no longer needs."""

from __future__ import annotations

import ctypes


def release_free_memory() -> None:
    """Give the heap's free pages back to the system; where the C library cannot do that, nothing happens.

    After much work at once glibc keeps them for the next time. It takes some milliseconds for some hundred megabytes.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
