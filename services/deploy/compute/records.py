"""An instance's folder: what its keeper writes there, and who is alive."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEARTBEAT_FORM = "%020d\n"


@dataclass(frozen=True)
class InstanceFolder:
    """Names of the files in an instance's folder.

    instance.json   spec and settings, written by the provider before the keeper starts
    started.json    start time, boot id, the keeper's process: written once, with fsync
    heartbeat       the last instant at which the keeper was alive
    state.json      state, address, Triton's process, limits: changes
    exited.json     end time and why: written once, with fsync, by the keeper or, if it was killed, for it
    tokens.jsonl    the engine's own account of each request's tokens
    triton.log      what Triton and the keeper say; triton.log.1 is the part before
    """

    path: Path

    @property
    def instance(self) -> Path:
        return self.path / "instance.json"

    @property
    def started(self) -> Path:
        return self.path / "started.json"

    @property
    def heartbeat(self) -> Path:
        return self.path / "heartbeat"

    @property
    def state(self) -> Path:
        return self.path / "state.json"

    @property
    def exited(self) -> Path:
        return self.path / "exited.json"

    @property
    def lock(self) -> Path:
        return self.path / "keeper.lock"

    @property
    def log(self) -> Path:
        return self.path / "triton.log"

    @property
    def keeper_errors(self) -> Path:
        return self.path / "keeper.err"

    @property
    def token_log(self) -> Path:
        return self.path / "tokens.jsonl"

    @property
    def repository(self) -> Path:
        return self.path / "repository"

    @property
    def backends(self) -> Path:
        return self.path / "backends"


def write_record(path: Path, record: dict[str, Any], *, durable: bool = True) -> None:
    """Replace a JSON file in one step; with `durable` it survives a power loss once this returns."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with open(part, "w") as file:
        json.dump(record, file, sort_keys=True)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    part.replace(path)
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_record(path: Path) -> dict[str, Any] | None:
    """Content of a JSON file; None when there is none."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


class Heartbeat:
    """One instant in one small file, overwritten in place: a write of so few bytes is never seen by half.

    Args:
        path: The file; made where missing.
        fsync_interval_ms: How often a beat is forced to disk.
    """

    def __init__(self, path: Path, *, fsync_interval_ms: int) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._fsync_interval_ms = fsync_interval_ms
        self._synced_ms = -fsync_interval_ms

    def beat(self, now_ms: int) -> None:
        os.pwrite(self._fd, (_HEARTBEAT_FORM % now_ms).encode(), 0)
        if now_ms - self._synced_ms >= self._fsync_interval_ms:
            os.fdatasync(self._fd)
            self._synced_ms = now_ms


def read_heartbeat(path: Path) -> int | None:
    """The last beat, Unix milliseconds; None when there was none."""
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def boot_id() -> str:
    """Id of this run of the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def process_start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it is gone or only waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may hold spaces and parentheses.
    after_name = stat.rpartition(")")[2].split()
    return None if after_name[0] in "ZX" else int(after_name[19])


@dataclass(frozen=True)
class ProcessIdentity:
    """A process that a reused process number cannot imitate."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        ticks = process_start_ticks(pid)
        return None if ticks is None else cls(pid, ticks, boot_id())

    def alive(self) -> bool:
        return self.boot_id == boot_id() and process_start_ticks(self.pid) == self.start_ticks


def keeper_identity(started: dict[str, Any]) -> ProcessIdentity:
    """The keeper that wrote a started.json."""
    return ProcessIdentity(int(started["keeper_pid"]), int(started["keeper_start_ticks"]), str(started["boot_id"]))


def keeper_alive(instance_uid: str, started: dict[str, Any]) -> bool:
    """Whether the keeper lives: same process, same boot, and the instance's uid among its arguments."""
    identity = keeper_identity(started)
    return identity.alive() and instance_uid in process_arguments(identity.pid)


def process_arguments(pid: int) -> list[str]:
    """Command line of a process; empty when it is gone."""
    try:
        content = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [part.decode(errors="replace") for part in content.split(b"\0") if part]


@contextmanager
def folder_lock(folder: InstanceFolder) -> Iterator[bool]:
    """Hold an instance's lock, which its keeper holds for life; yields False when somebody else has it."""
    fd = os.open(folder.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(fd)
