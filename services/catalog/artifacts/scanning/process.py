"""Scan a file in a process of its own, whose memory and time are bounded: what breaks it breaks nothing else.

    python -m services.catalog.artifacts.scanning.process FILE

prints `{"format": …, "facts": …}`, or `{"refusal": …}`.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from dataclasses import asdict
from pathlib import Path

from services.catalog.artifacts.scanning.refusal import Refusal
from services.catalog.artifacts.scanning.scan import Scanned, scan_file

_MEMORY_BYTES_MAX = 1 << 30
_CODE_FOLDER = Path(__file__).resolve().parents[4]
_ANSWER_BYTES_MAX = 64 << 20


async def scan_apart(path: Path, *, timeout_s: float) -> Scanned:
    """What a file is, told by another process.

    Raises:
        Refusal: see `scan_file`; or the process ran out of memory or time, or died.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "services.catalog.artifacts.scanning.process",
        str(path),
        env={"PATH": os.defpath, "PYTHONPATH": str(_CODE_FOLDER)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=_ANSWER_BYTES_MAX,
    )
    try:
        async with asyncio.timeout(timeout_s):
            said, _ = await process.communicate()
    except TimeoutError:
        raise Refusal(f"looking at it took longer than {timeout_s:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        answer = json.loads(said)
    except ValueError:
        raise Refusal("looking at it took more memory than it may, or broke the scanner") from None
    if "refusal" in answer:
        raise Refusal(answer["refusal"])
    return Scanned(answer["format"], answer["facts"])


def main(path: Path) -> None:
    """The other process."""
    # Its address space, the mapped file apart: a file is mapped and not read.
    mapped = path.stat().st_size
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES_MAX + mapped,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer = asdict(scan_file(path))
    except Refusal as refusal:
        answer = {"refusal": str(refusal)}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
