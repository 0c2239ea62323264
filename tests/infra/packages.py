"""The wheels that are installed on demand, fetched once into a folder that the tests share.

`python -m tests.infra.packages` fetches them beforehand.
"""

from __future__ import annotations

import asyncio
import fcntl
import subprocess
import sys
from functools import cache
from pathlib import Path

from services.catalog.sources.packages import PackageStore, read_pins

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".packages"
REQUIREMENTS = ROOT / "services" / "catalog" / "content" / "requirements"


@cache
def installed_packages() -> Path:
    """The folder, with every shipped model's wheels in it; 160 MB the first time."""
    # In a process of its own: the caller's has a loop that runs.
    subprocess.run([sys.executable, "-m", "tests.infra.packages"], cwd=ROOT, check=True, timeout=600)
    return FOLDER


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    # Tests run in several processes; the first one fetches.
    with (FOLDER / ".tests.lock").open("a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        asyncio.run(_install())


async def _install() -> None:
    store = PackageStore(FOLDER)
    for requirements in sorted(REQUIREMENTS.glob("*.txt")):
        async for _ in store.install(read_pins(requirements)):
            pass


if __name__ == "__main__":
    main()
