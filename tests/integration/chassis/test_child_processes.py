"""Programs that a process starts while gRPC works in it."""

from __future__ import annotations

import subprocess
import sys

import pytest

# As services run: uvloop forks, and gRPC's threads are at work when it does.
BUSY_PARENT = """
import asyncio
import sys

import chassis
import grpc
import uvloop


async def call(method):
    while True:
        try:
            await method(b"")
        except grpc.RpcError:
            pass


async def start():
    child = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", "pass")
    return await child.wait()


async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}") for _ in range(8)]
    calls = [asyncio.create_task(call(channel.unary_unary("/nobody/Nothing"))) for channel in channels]
    ended = [await asyncio.gather(start(), start(), start(), start()) for _ in range(50)]
    for one in calls:
        one.cancel()
    await server.stop(None)
    return ended


print(sorted({status for statuses in uvloop.run(main()) for status in statuses}))
"""


def test_every_program_that_is_started_runs() -> None:
    """None dies between the fork and its first line, as one in ten does where gRPC prepares for forks."""
    done = subprocess.run([sys.executable, "-c", BUSY_PARENT], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[0]"


# Says with what gRPC was imported first.
ON_IMPORT = """
import importlib
import os
import sys


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            print(os.environ.get("GRPC_ENABLE_FORK_SUPPORT"), flush=True)


sys.meta_path.insert(0, Finder())
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize(
    "program",
    [
        "cli.main",
        "services.billing.__main__",
        "services.catalog.__main__",
        "services.deploy.__main__",
        "services.deploy.compute.keeper",
        "services.inference.__main__",
    ],
)
def test_every_program_says_so_before_it_imports_grpc(program: str) -> None:
    """Afterwards it would be too late."""
    command = [sys.executable, "-c", ON_IMPORT, program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["0"]
