"""Render chat templates that nobody here has looked at, in a process of its own: what hangs or fills it hurts nothing else.

    python -m services.inference.backends.template_process MEMORY_BYTES

Requests come on standard input and answers leave on standard output, one after the other, each a length of four bytes and
as many of MessagePack: `{"template", "messages", "bos_token", "eos_token"}`, and `{"prompt"}` or `{"refused"}`.
"""

from __future__ import annotations

import resource
import struct
import sys
from typing import Any

import msgspec

from services.inference.domain.calls import Message
from services.inference.domain.errors import RequestInvalid
from services.inference.domain.prompts import render_prompt

LENGTH = struct.Struct(">I")


def answer(request: dict[str, Any]) -> dict[str, str]:
    """One request."""
    messages = [Message(*pair) for pair in request["messages"]]
    try:
        prompt = render_prompt(
            request["template"], messages, bos_token=request["bos_token"], eos_token=request["eos_token"]
        )
    except RequestInvalid as refusal:
        return {"refused": refusal.message}
    return {"prompt": prompt}


def main(memory_bytes_max: int) -> None:
    """Until the other side closes the pipe."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes_max, memory_bytes_max))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # It writes no file and opens none from now on but what Python may still import.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while length := source.read(LENGTH.size):
        said = msgspec.msgpack.encode(answer(msgspec.msgpack.decode(source.read(*LENGTH.unpack(length)))))
        sink.write(LENGTH.pack(len(said)) + said)
        sink.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
