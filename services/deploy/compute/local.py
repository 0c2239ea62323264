"""The local provider: each instance is a keeper process on this machine, found again by its folder."""

from __future__ import annotations

import asyncio
import builtins
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chassis.clock import SystemClock
from chassis.telemetry import get_logger
from engines.repository import build_repository
from services.deploy.compute.engine_log import read_last_lines
from services.deploy.compute.interface import InstanceSpec, InstanceState, InstanceView, LaunchRefused
from services.deploy.compute.keeper import KEPT_ALREADY
from services.deploy.compute.limits import choose_cpus, instance_cgroup, remove_cgroup
from services.deploy.compute.records import (
    InstanceFolder,
    folder_lock,
    keeper_alive,
    keeper_identity,
    read_heartbeat,
    read_record,
    write_record,
)
from services.deploy.compute.server import kill_leftovers
from services.deploy.compute.settings import LocalSettings

log = get_logger(__name__)

_CODE_FOLDER = Path(__file__).resolve().parents[3]
# Launches and terminations at once.
_ACTIONS_MAX = 16
_KEPT_ENVIRONMENT = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ")


class LocalProvider:
    """Instances on this machine. All it knows lies in files, so any process may build one over the same folder.

    Args:
        settings: Where and within which limits.
        clock: Time of releases that no keeper recorded; keepers get their time from it.
    """

    def __init__(self, settings: LocalSettings, clock: SystemClock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        # Starting and ending take seconds: they have threads of their own, so that looking never waits for them.
        self._actions = ThreadPoolExecutor(_ACTIONS_MAX, thread_name_prefix="instance")

    async def launch(self, spec: InstanceSpec) -> None:
        await asyncio.get_running_loop().run_in_executor(self._actions, self._launch, spec)

    async def terminate(self, instance_uid: str) -> int | None:
        return await asyncio.get_running_loop().run_in_executor(self._actions, self._terminate, instance_uid)

    async def list(self) -> builtins.list[InstanceView]:
        return await asyncio.to_thread(self._list)

    async def watch(self) -> AsyncIterator[InstanceView]:
        seen: dict[str, InstanceView] = {}
        while True:
            for view in await self.list():
                if seen.get(view.instance_uid) != view:
                    seen[view.instance_uid] = view
                    yield view
            await asyncio.sleep(self._settings.poll_interval_s)

    async def logs(self, instance_uid: str, lines: int) -> builtins.list[str]:
        return await asyncio.to_thread(read_last_lines, self._folder(instance_uid).log, lines)

    async def forget(self, instance_uid: str) -> None:
        await asyncio.to_thread(self._forget, instance_uid)

    def _folder(self, instance_uid: str) -> InstanceFolder:
        if not instance_uid or "/" in instance_uid or instance_uid.startswith("."):
            raise ValueError(f'"{instance_uid}" is no instance uid')
        return InstanceFolder(self._settings.instances_dir.resolve() / instance_uid)

    def _launch(self, spec: InstanceSpec) -> None:
        folder = self._folder(spec.instance_uid)
        if folder.started.exists() or folder.exited.exists():
            return
        if spec.vcpus < 1 or spec.memory_bytes < 1:
            raise LaunchRefused(
                f"an instance of {spec.vcpus} cores and {spec.memory_bytes} bytes of memory cannot run; "
                "both must be at least 1"
            )
        folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with folder_lock(folder) as locked:
            # Not locked: a keeper is starting already, and waiting for its first record is all there is to do.
            if locked:
                self._prepare(spec, folder)
        if locked:
            self._start_keeper(spec.instance_uid, folder)
        self._wait_started(spec.instance_uid, folder)

    def _prepare(self, spec: InstanceSpec, folder: InstanceFolder) -> None:
        cpus = choose_cpus(spec.vcpus, self._cpus_in_use())
        parameters = {"threads": str(len(cpus)), "token_log": str(folder.token_log), **spec.parameters}
        try:
            build_repository(
                folder.repository,
                spec.model_name,
                spec.engine,
                {name: Path(path) for name, path in spec.artifacts.items()},
                parameters,
                self._settings.packages_dir,
            )
        except (ValueError, FileNotFoundError) as error:
            shutil.rmtree(folder.path)
            raise LaunchRefused(str(error)) from error
        record = {
            "spec": asdict(spec),
            "settings": self._settings.to_record(),
            "cpus": cpus,
            # The wall clock may have stepped since this process read it, and an instance is billed by both.
            "clock_offset_ns": self._clock.offset_ns,
        }
        write_record(folder.instance, record)

    def _start_keeper(self, instance_uid: str, folder: InstanceFolder) -> None:
        command = [sys.executable, "-P", "-m", "services.deploy.compute.keeper"]
        command += ["--instance-uid", instance_uid, "--folder", str(folder.path)]
        with open(folder.keeper_errors, "ab") as errors:
            # This process forks the keeper and ends, so that the keeper is nobody's child and nobody has to reap it.
            first = subprocess.run(
                command,
                env=_keeper_environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
                check=False,
                timeout=self._settings.keeper_start_timeout_s,
            )
        if first.returncode not in (0, KEPT_ALREADY):
            log.error(
                "a keeper did not start", instance=instance_uid, status=first.returncode, said=folder.keeper_errors
            )
            raise LaunchRefused(
                f"its keeper exited with {first.returncode}; the operator finds why in the log of deploy"
            )

    def _wait_started(self, instance_uid: str, folder: InstanceFolder) -> None:
        deadline_s = time.monotonic() + self._settings.keeper_start_timeout_s
        while not folder.started.exists() and not folder.exited.exists():
            if time.monotonic() > deadline_s:
                waited = f"{self._settings.keeper_start_timeout_s:g} s"
                log.error("a keeper wrote no record", instance=instance_uid, waited=waited, said=folder.keeper_errors)
                raise LaunchRefused(
                    f"its keeper wrote no record within {waited}; the operator finds why in the log of deploy"
                )
            time.sleep(0.02)

    def _cpus_in_use(self) -> builtins.list[builtins.list[int]]:
        in_use = []
        for folder in self._folders():
            started = read_record(folder.started)
            if started and not folder.exited.exists():
                in_use.append([int(cpu) for cpu in started["cpus"]])
        return in_use

    def _terminate(self, instance_uid: str) -> int | None:
        folder = self._folder(instance_uid)
        if not folder.path.exists():
            return None
        started = self._started_or_never(folder)
        if started is None:
            return None
        identity = keeper_identity(started)
        # What its calls get, the keeper's margin on it, and what writing the record takes.
        deadline_s = time.monotonic() + _settings_of(folder).drain_s + 10
        if keeper_alive(instance_uid, started):
            _signal(identity.pid, signal.SIGTERM)
        while keeper_alive(instance_uid, started):
            if time.monotonic() > deadline_s:
                _signal(identity.pid, signal.SIGKILL)
                deadline_s += 10
            time.sleep(0.05)
        return int(self._settle(instance_uid, folder, started)["exited_at_ms"])

    def _started_or_never(self, folder: InstanceFolder) -> dict[str, Any] | None:
        """The start record, waiting for a keeper that is about to write it; None once it can never come."""
        deadline_s = time.monotonic() + self._settings.keeper_start_timeout_s
        while (started := read_record(folder.started)) is None and time.monotonic() < deadline_s:
            with folder_lock(folder) as locked:
                if locked and not folder.started.exists():
                    # A keeper that comes later finds this and goes.
                    end = {"exited_at_ms": self._clock.now_ms(), "why": "terminated before its start"}
                    write_record(folder.exited, {**end, "failed": False})
                    return None
            time.sleep(0.02)
        return started

    def _list(self) -> builtins.list[InstanceView]:
        views = []
        for folder in self._folders():
            started = read_record(folder.started)
            if started is not None:
                views.append(self._view(folder.path.name, folder, started))
        return sorted(views, key=lambda view: (view.started_at_ms, view.instance_uid))

    def _folders(self) -> builtins.list[InstanceFolder]:
        root = self._settings.instances_dir.resolve()
        if not root.exists():
            return []
        return [InstanceFolder(path) for path in sorted(root.iterdir()) if path.is_dir()]

    def _view(self, instance_uid: str, folder: InstanceFolder, started: dict[str, Any]) -> InstanceView:
        handle = {"folder": str(folder.path), "keeper_pid": str(started["keeper_pid"])}
        handle["boot_id"] = str(started["boot_id"])
        state = read_record(folder.state) or {}
        exited = read_record(folder.exited)
        if exited is None and not keeper_alive(instance_uid, started):
            exited = self._settle(instance_uid, folder, started)
        if exited is not None:
            return InstanceView(
                instance_uid=instance_uid,
                state=InstanceState.FAILED if exited["failed"] else InstanceState.EXITED,
                address="",
                started_at_ms=int(started["started_at_ms"]),
                exited_at_ms=int(exited["exited_at_ms"]),
                detail=str(exited["why"]),
                limits=str(started["limits"]),
                handle=handle,
            )
        for name in ("triton_pid", "metrics_address", "restarts"):
            if state.get(name) is not None:
                handle[name] = str(state[name])
        return InstanceView(
            instance_uid=instance_uid,
            state=InstanceState(state.get("state", InstanceState.STARTING.value)),
            address=str(state.get("address", "")),
            started_at_ms=int(started["started_at_ms"]),
            exited_at_ms=None,
            detail=str(state.get("detail", "")),
            limits=str(started["limits"]),
            handle=handle,
        )

    def _settle(self, instance_uid: str, folder: InstanceFolder, started: dict[str, Any]) -> dict[str, Any]:
        """The exit record of an instance whose keeper is gone, written for it when it could not.

        It was released at its keeper's last heartbeat: after that nobody vouches for it.
        """
        exited = read_record(folder.exited)
        if exited is None:
            kill_leftovers(instance_uid, folder)
            if self._settings.cgroup_parent is not None:
                remove_cgroup(instance_cgroup(self._settings.cgroup_parent, instance_uid))
            started_at_ms = int(started["started_at_ms"])
            last_beat_ms = max(read_heartbeat(folder.heartbeat) or started_at_ms, started_at_ms)
            why = "its keeper was killed or the machine restarted"
            exited = {"exited_at_ms": last_beat_ms, "why": why, "failed": False}
            write_record(folder.exited, exited)
        return exited

    def _forget(self, instance_uid: str) -> None:
        folder = self._folder(instance_uid)
        if not folder.path.exists():
            return
        started = read_record(folder.started)
        if started is not None and keeper_alive(instance_uid, started):
            raise ValueError(f"instance {instance_uid} lives; terminate it first")
        shutil.rmtree(folder.path)


def touch_lease(lease_file: Path) -> None:
    """Tell every keeper that the platform lives; to be called every few seconds."""
    lease_file.parent.mkdir(parents=True, exist_ok=True)
    lease_file.touch()
    os.utime(lease_file)


def _settings_of(folder: InstanceFolder) -> LocalSettings:
    """Those that its keeper follows, however this process is set."""
    record = read_record(folder.instance)
    if record is None:
        raise FileNotFoundError(
            f"{folder.instance} is gone while its instance runs; restore it, or end the keeper by hand"
        )
    return LocalSettings.from_record(record["settings"])


def _keeper_environment(given: Mapping[str, str]) -> dict[str, str]:
    """Neutral variables only: what deploy was given (credentials, its parent) is not the keeper's."""
    kept = {name: given[name] for name in _KEPT_ENVIRONMENT if name in given}
    return {**kept, "PYTHONPATH": str(_CODE_FOLDER), "PYTHONUNBUFFERED": "1"}


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
