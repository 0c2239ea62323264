"""The keeper of one local instance: `python -m services.deploy.compute.keeper --instance-uid UID --folder FOLDER`.

It outlives deploy. It starts Triton, starts it again when it or the model in it dies or goes deaf, writes what
happened into the instance's folder, and ends everything when the platform's lease is stale or it is told to (SIGTERM).
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chassis.clock import SystemClock
from services.deploy.compute.engine_log import EngineLog
from services.deploy.compute.interface import InstanceSpec, InstanceState
from services.deploy.compute.limits import Limits, make_limits, memory_used_bytes, remove_cgroup
from services.deploy.compute.records import (
    Heartbeat,
    InstanceFolder,
    ProcessIdentity,
    folder_lock,
    read_record,
    write_record,
)
from services.deploy.compute.server import Server, ServerBroken
from services.deploy.compute.settings import LocalSettings

# Exit code: another keeper has the instance.
KEPT_ALREADY = 3

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class _End:
    """Why an instance ends, and what its running calls get to finish, seconds."""

    why: str
    grace_s: float = 0
    failed: bool = False


class _Recent:
    """Counts what happened within a window of running time."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._at_s: deque[float] = deque()

    def add(self) -> int:
        """Count one more; returns how many the window holds."""
        now_s = time.monotonic()
        self._at_s.append(now_s)
        while self._at_s[0] < now_s - self._window_s:
            self._at_s.popleft()
        return len(self._at_s)


class Keeper:
    """Keeps one instance serving until it is told to end, its lease is stale, or it cannot be kept serving."""

    def __init__(
        self, spec: InstanceSpec, settings: LocalSettings, folder: InstanceFolder, limits: Limits, clock: SystemClock
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._folder = folder
        self._limits = limits
        self._clock = clock
        self._log = EngineLog(folder.log, bytes_max=settings.log_bytes_max)
        self._server = Server(spec, settings, folder, limits, self._log.write)
        self._heartbeat = Heartbeat(folder.heartbeat, fsync_interval_ms=int(settings.heartbeat_fsync_s * 1000))
        self._told_to_end = asyncio.Event()
        self._starts = _Recent(settings.restart_window_s)
        self._restart_count = 0
        self._was_ready = False

    def end(self) -> None:
        """End the instance; the run returns when Triton is gone."""
        self._told_to_end.set()

    async def run(self) -> _End:
        """Keep the instance until it ends; nothing of it runs when this returns."""
        self._beat()
        tasks = {
            asyncio.create_task(self._serve(), name="serve"),
            asyncio.create_task(self._watch_lease(), name="lease"),
            asyncio.create_task(self._wait_for_end(), name="end"),
        }
        done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        first = done.pop()
        error = first.exception()
        end = _End(f"the keeper failed: {error!r}", failed=True) if error else first.result()
        self._say(f"ending: {end.why}")
        # Beats go on while Triton stops: the instance is not released before it is gone.
        beats = asyncio.create_task(self._beat_for_ever())
        await self._server.stop(grace_s=end.grace_s)
        beats.cancel()
        remove_cgroup(self._limits.cgroup)
        self._log.close()
        return end

    async def _wait_for_end(self) -> _End:
        await self._told_to_end.wait()
        # Triton counts the same time itself, in steps of a second.
        return _End("terminated", grace_s=self._settings.drain_s + 2)

    async def _watch_lease(self) -> _End:
        """Beat, and return when nobody has touched the lease file for `lease_stale_s` of running time.

        The file's time is only compared with itself, so a stepped wall clock does not end an instance; time asleep
        does not count, so neither does a suspended machine.
        """
        lease_file = self._settings.lease_file
        seen, seen_at_s = _modified_ns(lease_file), time.monotonic()
        while True:
            await asyncio.sleep(self._settings.check_interval_s)
            self._beat()
            if not self._folder.instance.exists():
                return _End("the instance's folder was removed", failed=True)
            touched = _modified_ns(lease_file)
            if lease_file is None or touched != seen:
                seen, seen_at_s = touched, time.monotonic()
            elif time.monotonic() - seen_at_s > self._settings.lease_stale_s:
                return _End(
                    f"the platform's lease was not touched for {self._settings.lease_stale_s:g} s",
                    grace_s=self._settings.stop_timeout_s,
                )

    async def _serve(self) -> _End:
        backoff_s = self._settings.restart_backoff_s
        while True:
            starts = self._starts.add()
            try:
                self._set_state(InstanceState.STARTING, "Triton is starting")
                await self._server.start()
                self._set_state(InstanceState.STARTING, "the model is loading")
                await self._server.load()
                self._set_ready()
                backoff_s = self._settings.restart_backoff_s
                await self._watch_server()
            except ServerBroken as broken:
                self._say(str(broken))
                self._set_state(InstanceState.STARTING, f"Triton starts again: {broken}")
                await self._server.stop(grace_s=0)
                # A first load that fails twice alike will not succeed: the model or the machine is at fault.
                starts_max = self._settings.restarts_max if self._was_ready else 2
                if starts >= starts_max:
                    return _End(f"{starts} starts of Triton failed, the last one because {broken}", failed=True)
            self._restart_count += 1
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, self._settings.restart_backoff_max_s)

    async def _watch_server(self) -> None:
        """Look after a ready server until it needs a new start.

        A broken model is not loaded again in the same Triton: an unload waits for ever for the streams that hang on
        its dead stub, while a new start takes as long as a load and ends them at once.

        Raises:
            ServerBroken: it does.
        """
        next_canary_s = time.monotonic() + self._settings.canary_interval_s
        while True:
            await asyncio.sleep(self._settings.check_interval_s)
            self._server.check_running()
            self._check_memory()
            if self._server.has_dead_stub():
                raise ServerBroken("the model's stub process died")
            if time.monotonic() >= next_canary_s:
                next_canary_s = time.monotonic() + self._settings.canary_interval_s
                await self._server.probe()

    def _check_memory(self) -> None:
        used = memory_used_bytes(self._server.processes())
        if self._limits.cgroup is None and used > self._limits.memory_bytes:
            raise ServerBroken(f"it used {used} bytes of memory and {self._limits.memory_bytes} are its limit")

    def _set_ready(self) -> None:
        self._was_ready = True
        self._set_state(InstanceState.READY, "")
        self._say(f"ready at {self._server.address}")

    def _set_state(self, state: InstanceState, detail: str) -> None:
        record: dict[str, Any] = {
            "state": state.value,
            "detail": detail,
            "address": self._server.address,
            "metrics_address": self._server.metrics_address,
            "triton_pid": self._server.pid,
            "restarts": self._restart_count,
            "at_ms": self._clock.now_ms(),
        }
        write_record(self._folder.state, record, durable=False)

    def _beat(self) -> None:
        self._heartbeat.beat(self._clock.now_ms())

    async def _beat_for_ever(self) -> None:
        while True:
            self._beat()
            await asyncio.sleep(self._settings.check_interval_s)

    def _say(self, sentence: str) -> None:
        self._log.say(self._clock.now_ms(), sentence)


def _modified_ns(path: Path | None) -> int | None:
    try:
        return path.stat().st_mtime_ns if path else None
    except FileNotFoundError:
        return None


async def keep(instance_uid: str, folder: InstanceFolder) -> None:
    """Run an instance once; a folder whose instance was started before is left as it is."""
    if folder.started.exists() or folder.exited.exists():
        return
    instance = read_record(folder.instance)
    if instance is None or instance["spec"]["instance_uid"] != instance_uid:
        raise ValueError(f"{folder.instance} does not hold the spec of instance {instance_uid}")
    spec = InstanceSpec(**instance["spec"])
    settings = LocalSettings.from_record(instance["settings"])
    clock = SystemClock(offset_ns=instance["clock_offset_ns"])
    # Orphaned stubs become children of the keeper, which can then find and reap them.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    limits = make_limits(
        instance_uid,
        vcpus=spec.vcpus,
        memory_bytes=spec.memory_bytes,
        cpus=tuple(instance["cpus"]),
        cgroup_parent=settings.cgroup_parent,
    )
    keeper = Keeper(spec, settings, folder, limits, clock)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, keeper.end)
    identity = ProcessIdentity.of(os.getpid())
    if identity is None:
        raise OSError("/proc does not show this process; the keeper needs Linux")
    started = {
        "instance_uid": instance_uid,
        "started_at_ms": clock.now_ms(),
        "boot_id": identity.boot_id,
        "keeper_pid": identity.pid,
        "keeper_start_ticks": identity.start_ticks,
        "cpus": list(limits.cpus),
        "limits": limits.text,
    }
    write_record(folder.started, started)
    end = await keeper.run()
    write_record(folder.exited, {"exited_at_ms": clock.now_ms(), "why": end.why, "failed": end.failed})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--instance-uid", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    folder = InstanceFolder(given.folder)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with folder_lock(folder) as locked:
        if not locked:
            sys.exit(KEPT_ALREADY)
        # Nobody's child: whoever launched it may die, or forget to reap it. The lock is the child's as well.
        if os.fork():
            os._exit(0)
        asyncio.run(keep(given.instance_uid, folder))


if __name__ == "__main__":
    main()
