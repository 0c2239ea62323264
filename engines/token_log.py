"""A witness of what an engine did: one line a request, counts only, never text."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path


class TokenLog:
    """Appends one JSON object a line to a file; safe to call from several threads.

    A line is one write to a file opened for appending, so lines never mix. The line of a request is written before
    its last response leaves.

    Args:
        path: File to append to, or None to write nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._fd = -1 if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, request_id: str, *, end: str, **counts: int) -> None:
        """Record how a request ended.

        Args:
            request_id: The caller's id of the request.
            end: "stop", "length", "cancelled", "refused" or "failed".
            counts: What the engine counts, 0 where it had not read the input: `input_tokens` read and `output_tokens`
                made, `audio_milliseconds`, or `images`; whether or not a client received the answer.
        """
        if self._fd < 0:
            return
        line = {
            "at_ms": time.time_ns() // 1_000_000,
            "request_id": request_id,
            **counts,
            "end": end,
        }
        os.write(self._fd, (json.dumps(line) + "\n").encode())

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_token_log(path: Path) -> list[dict[str, int | str]]:
    """Every whole line of a token log, oldest first; a missing file is an empty log."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1] if line]
