"""One running Triton: started, asked, stopped; with everything it may leave behind cleared away."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import psutil
from tritonclient.grpc import service_pb2, service_pb2_grpc

from chassis.instance_secret import INSTANCE_SECRET_HEADER, instance_secret
from services.deploy.compute.interface import InstanceSpec
from services.deploy.compute.limits import Limits
from services.deploy.compute.probes import ProbeFailed, probe
from services.deploy.compute.progress import Progress, describe_waits
from services.deploy.compute.records import InstanceFolder
from services.deploy.compute.settings import LocalSettings
from services.deploy.compute.triton import find_triton, prepare_backends, triton_arguments, triton_environment

_CONFINE = Path(__file__).with_name("confine.py")
_STUB_NAME = "triton_python_backend_stub"
# How often a Triton that is stopping is looked at.
_STOP_LOOK_S = 0.05


class ServerBroken(Exception):
    """Triton, or the model in it, does not work; the text says how that was seen."""


class Server:
    """Triton of one instance. Not for use from several tasks at once, except `stop`.

    Args:
        spec: What it serves.
        settings: Time limits.
        folder: The instance's folder.
        limits: What to confine it to.
        write_log: Takes what Triton prints.
    """

    def __init__(
        self,
        spec: InstanceSpec,
        settings: LocalSettings,
        folder: InstanceFolder,
        limits: Limits,
        write_log: Callable[[bytes], None],
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._folder = folder
        self._limits = limits
        self._write_log = write_log
        self._secret = instance_secret(settings.cluster_secret_file.read_bytes(), spec.instance_uid)
        self._metadata = ((INSTANCE_SECRET_HEADER, self._secret),)
        self._shm_prefix = shm_prefix(spec.instance_uid)
        self._process: asyncio.subprocess.Process | None = None
        self._log_pump: asyncio.Task[None] | None = None
        self._channel: Any = None
        self._stub: Any = None
        self._ports: tuple[int, int] | None = None
        self._model_stubs: list[psutil.Process] = []

    @property
    def address(self) -> str:
        """`host:port` of its gRPC; empty before the first start."""
        return f"{self._settings.host}:{self._ports[0]}" if self._ports else ""

    @property
    def metrics_address(self) -> str:
        return f"127.0.0.1:{self._ports[1]}" if self._ports else ""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start Triton and wait until it answers.

        Raises:
            ServerBroken: it exited or did not answer in time.
        """
        files = find_triton()
        self._ports = self._ports or _free_ports(self._settings.host)
        arguments = triton_arguments(
            files,
            repository=self._folder.repository,
            backends=prepare_backends(self._folder.backends, files),
            host=self._settings.host,
            grpc_port=self._ports[0],
            metrics_port=self._ports[1],
            secret=self._secret,
            shm_prefix=self._shm_prefix,
            exit_timeout_s=self._settings.drain_s,
        )
        confined = [sys.executable, "-I", "-S", str(_CONFINE), "--parent", str(os.getpid())]
        confined += ["--cpus", ",".join(map(str, self._limits.cpus))]
        if self._limits.cgroup is not None:
            confined += ["--cgroup", str(self._limits.cgroup)]
        self._process = await asyncio.create_subprocess_exec(
            *confined,
            "--",
            *arguments,
            cwd=self._folder.path,
            env=triton_environment(files, os.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        self._log_pump = asyncio.create_task(self._pump_log(self._process))
        self._channel = grpc.aio.insecure_channel(self.address, options=[("grpc.enable_retries", 0)])
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        try:
            await self._wait_live()
        except ServerBroken:
            # Another process may have taken the port between choosing and binding.
            self._ports = None
            raise

    async def _wait_live(self) -> None:
        deadline = asyncio.get_running_loop().time() + self._settings.start_timeout_s
        while True:
            self.check_running()
            try:
                request = service_pb2.ServerLiveRequest()
                answer = await self._stub.ServerLive(request, metadata=self._metadata, timeout=1, wait_for_ready=True)
                if answer.live:
                    return
            except grpc.aio.AioRpcError as error:
                if asyncio.get_running_loop().time() > deadline:
                    within = f"within {self._settings.start_timeout_s:g} s"
                    raise ServerBroken(f"Triton did not answer {within}: {error.code().name}") from error

    def check_running(self) -> None:
        """Raises ServerBroken when Triton's process has ended."""
        if self._process is None:
            raise ServerBroken("Triton is not started")
        code = self._process.returncode
        if code is not None:
            how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
            raise ServerBroken(f"Triton {how}")

    def has_dead_stub(self) -> bool:
        """Whether a stub process of the loaded model has died, which Triton does not notice: it stays READY."""
        return not all(_runs(one) for one in self._model_stubs)

    def processes(self) -> list[psutil.Process]:
        """Triton and the stubs of the loaded model; empty when it is not running."""
        try:
            return [psutil.Process(self.pid), *self._model_stubs] if self.pid else []
        except psutil.NoSuchProcess:
            return []

    async def load(self) -> None:
        """Load the model and see it answer.

        Raises:
            ServerBroken: it did not load in time or did not get on, or its canary failed.
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=self._spec.model_name)
        timeout_s = self._settings.load_timeout_s
        loading = asyncio.ensure_future(
            self._stub.RepositoryModelLoad(request, metadata=self._metadata, timeout=timeout_s)
        )
        try:
            await self._watch_load(loading)
            await loading
        except grpc.aio.AioRpcError as error:
            raise ServerBroken(f"model load ended with {error.code().name}: {error.details()}") from error
        finally:
            loading.cancel()
        self._model_stubs = self._stub_processes()
        await self.probe()

    async def _watch_load(self, loading: asyncio.Future[Any]) -> None:
        """Return when a load has ended.

        Once in thousands of times a stub never answers its Triton. A new start mends that, and need not wait for as
        long as the largest model may take.

        Raises:
            ServerBroken: for `load_idle_s` nothing of Triton got on.
        """
        progress = Progress()
        while not loading.done():
            await asyncio.wait({loading}, timeout=self._settings.check_interval_s)
            idle_s = progress.idle_s(self._triton_tree())
            if idle_s > self._settings.load_idle_s:
                self._write_log(f"keeper: {describe_waits(self._triton_tree())}\n".encode())
                raise ServerBroken(f"the model load used no processor and no disk for {idle_s:.0f} s")

    async def probe(self) -> None:
        """One canary inference.

        Raises:
            ServerBroken: it failed.
        """
        try:
            await probe(
                self._stub,
                self._spec.engine,
                self._spec.model_name,
                self._spec.parameters,
                metadata=self._metadata,
                timeout_s=self._settings.canary_timeout_s,
            )
        except ProbeFailed as failed:
            raise ServerBroken(str(failed)) from failed

    async def stop(self, *, grace_s: float) -> None:
        """End Triton and all it started, and clear its shared memory; does nothing when it is not running.

        Args:
            grace_s: What running calls get; 0 kills at once.
        """
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None and grace_s > 0:
                process.terminate()
                await self._wait_ended(process, grace_s)
            _kill_group(process.pid)
            await process.wait()
        self._model_stubs = []
        kill_own_children(but=set())
        if self._log_pump is not None:
            await self._log_pump
            self._log_pump = None
        clear_shared_memory(self._shm_prefix)

    async def _wait_ended(self, process: asyncio.subprocess.Process, grace_s: float) -> None:
        """Wait for Triton's end; without a stub nothing in it answers any more, and it soon has to go."""
        loop = asyncio.get_running_loop()
        end_s, can_answer = loop.time() + grace_s, True
        while process.returncode is None:
            if loop.time() > end_s:
                self._write_log(b"keeper: Triton did not stop in time and is killed\n")
                return
            if can_answer and not any(map(_runs, self._model_stubs)):
                can_answer = False
                end_s = min(end_s, loop.time() + self._settings.stop_timeout_s)
            await asyncio.sleep(_STOP_LOOK_S)

    def _stub_processes(self) -> list[psutil.Process]:
        return [one for one in self._triton_tree() if _is_stub(one)]

    def _triton_tree(self) -> list[psutil.Process]:
        """Triton and what it has started; empty when it is not running."""
        if self.pid is None:
            return []
        try:
            triton = psutil.Process(self.pid)
            return [triton, *triton.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    async def _pump_log(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - asked for above, the type checker cannot know
        while content := await process.stdout.read(65536):
            self._write_log(content)


def shm_prefix(instance_uid: str) -> str:
    """Names of an instance's shared memory regions begin with this; no instance's prefix begins another's."""
    return f"modelyard-{instance_uid}-"


def clear_shared_memory(prefix: str) -> None:
    """Remove the shared memory regions that a killed Triton left."""
    for region in Path("/dev/shm").glob(f"{prefix}*"):  # noqa: S108 - where Triton puts them
        region.unlink(missing_ok=True)


def kill_leftovers(instance_uid: str, folder: InstanceFolder) -> int:
    """Kill what a dead keeper left running: processes whose arguments name this instance's repository.

    Returns:
        How many were killed.
    """
    marks = (f"--model-repository={folder.repository}", f"{folder.repository}/")
    left = []
    for one in psutil.process_iter():
        try:
            if any(argument.startswith(marks) for argument in one.cmdline()):
                left.append(one)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    for one in left:
        _kill(one)
    psutil.wait_procs(left, timeout=5)
    clear_shared_memory(shm_prefix(instance_uid))
    return len(left)


def kill_own_children(*, but: set[int]) -> None:
    """Kill and reap every child of this process, orphaned grandchildren included; the keeper is their reaper."""
    for one in psutil.Process().children(recursive=True):
        if one.pid in but:
            continue
        _kill(one)
        try:
            os.waitpid(one.pid, 0)
        except ChildProcessError:
            continue


def _free_ports(host: str) -> tuple[int, int]:
    """One at the host, one on loopback."""
    with socket.socket() as first, socket.socket() as second:
        first.bind((host, 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _is_stub(process: psutil.Process) -> bool:
    try:
        arguments = process.cmdline()
    except psutil.NoSuchProcess:
        return False
    return bool(arguments) and arguments[0].endswith(_STUB_NAME)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
