"""One Triton with models that do nothing: what is measured around them is ours."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from chassis.ids import new_uid
from chassis.instance_secret import INSTANCE_SECRET_HEADER, instance_secret
from embedded.parent_death import tied_command
from embedded.ports import free_port
from engines.repository import build_repository
from services.deploy.compute.triton import find_triton, prepare_backends, triton_arguments, triton_environment

# Gives back its input, one response a request.
NOOP = "noop"
# Streams as many one-token responses as its input says.
TOKENS = "tokens"
MODELS = Path(__file__).parent / "models"
READY_S_MAX = 30.0


class EngineFailed(Exception):
    """Triton did not come up; says where its log is."""


@dataclass(frozen=True)
class Engine:
    """Where it answers, and the header that every call of it needs."""

    instance_uid: str
    address: str
    headers: dict[str, str]


@asynccontextmanager
async def running_engine(folder: Path, cluster_secret: bytes) -> AsyncIterator[Engine]:
    """Triton for the length of the block, started as a keeper starts it.

    Args:
        cluster_secret: Inference derives the instance's secret from the same.
    """
    files = find_triton()
    instance_uid = new_uid()
    secret = instance_secret(cluster_secret, instance_uid)
    build_repository(folder / "repository", NOOP, "noop", {}, {})
    shutil.copytree(MODELS / TOKENS, folder / "repository" / TOKENS)
    port = free_port()
    arguments = triton_arguments(
        files,
        repository=folder / "repository",
        backends=prepare_backends(folder / "backends", files),
        host="127.0.0.1",
        grpc_port=port,
        metrics_port=free_port(),
        secret=secret,
        shm_prefix=f"bench-{os.getpid()}-",
        exit_timeout_s=3,
    )
    with (folder / "triton.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *tied_command(arguments), env=triton_environment(files, os.environ), stdout=log, stderr=log
        )
    engine = Engine(instance_uid, f"127.0.0.1:{port}", {INSTANCE_SECRET_HEADER: secret})
    try:
        await _load(engine, process, folder / "triton.log")
        yield engine
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _load(engine: Engine, process: asyncio.subprocess.Process, log: Path) -> None:
    metadata = tuple(engine.headers.items())
    give_up_at = monotonic() + READY_S_MAX
    async with grpc.aio.insecure_channel(engine.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for model in (NOOP, TOKENS):
            request = service_pb2.RepositoryModelLoadRequest(model_name=model)
            while True:
                try:
                    await stub.RepositoryModelLoad(request, metadata=metadata, timeout=READY_S_MAX)
                    break
                except grpc.aio.AioRpcError as error:
                    if (
                        error.code() is not grpc.StatusCode.UNAVAILABLE
                        or process.returncode is not None
                        or monotonic() > give_up_at
                    ):
                        raise EngineFailed(f"Triton did not load {model}: {log.read_text()[-2000:]}") from error
                    await asyncio.sleep(0.05)
