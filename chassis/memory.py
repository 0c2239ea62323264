"""Memory that a process no longer needs."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # malloc.h


def share_heaps(count: int) -> None:
    """Let threads share so many heaps from now on; where the C library has no such setting, nothing happens.

    glibc gives each of many threads one of its own, up to eight for each processor, and what is free in one no other
    thread can use. Not set in the environment: programs that are started from here would have it too.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_ARENA_MAX, count)


def release_free_memory() -> None:
    """Give the heap's free pages back to the system; where the C library cannot do that, nothing happens.

    After much work at once glibc keeps them for the next time. It takes some milliseconds for some hundred megabytes.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
