"""What kills and hangs do to a local instance: who mends it, within which bound, and when it counts as released."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import psutil
import pytest
import pytest_asyncio

from services.deploy.compute.interface import InstanceState, InstanceView
from services.deploy.compute.local import LocalProvider
from services.deploy.compute.settings import LocalSettings
from tests.infra.instances import (
    EngineClient,
    instance_spec,
    local_provider,
    local_settings,
    view_of,
    wait_for_state,
    wait_for_view,
    wait_until,
)

# Triton or a stub that was killed is back within this, model load included; a deaf stub also waits for its canary.
BACK_S_MAX = 15.0

LAUNCHER = """
import asyncio, json, sys, time
from services.deploy.compute.interface import InstanceSpec
from services.deploy.compute.local import LocalProvider
from services.deploy.compute.settings import LocalSettings
spec, settings = json.loads(sys.argv[1])
asyncio.run(LocalProvider(LocalSettings.from_record(settings)).launch(InstanceSpec(**spec)))
print("launched", flush=True)
time.sleep(600)
"""


@pytest.fixture
def settings(tmp_path: Path) -> LocalSettings:
    return local_settings(tmp_path, canary_interval_s=1.0, canary_timeout_s=3.0, load_timeout_s=20.0)


@pytest_asyncio.fixture
async def provider(settings: LocalSettings) -> AsyncIterator[LocalProvider]:
    async with local_provider(settings) as provider:
        yield provider


async def ready_again(provider: LocalProvider, instance_uid: str) -> InstanceView:
    """The instance once Triton has started a second time."""
    return await wait_for_view(
        provider,
        instance_uid,
        lambda view: view.state is InstanceState.READY and view.handle["restarts"] == "1",
        timeout_s=BACK_S_MAX,
    )


async def triton_of(provider: LocalProvider, instance_uid: str) -> psutil.Process:
    view = await wait_for_state(provider, instance_uid, InstanceState.READY)
    return psutil.Process(int(view.handle["triton_pid"]))


async def test_a_killed_launcher_leaves_its_instance_running(provider: LocalProvider, settings: LocalSettings) -> None:
    """kill -9 of deploy: Triton stays the same process, and the next deploy adopts it."""
    spec = instance_spec("noop", "outlives").__dict__
    launcher = subprocess.Popen(  # noqa: ASYNC220 - started at once; its output is read in a thread
        [sys.executable, "-c", LAUNCHER, json.dumps([spec, settings.to_record()])],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        start_new_session=True,
    )
    assert launcher.stdout is not None
    with launcher.stdout:
        assert await asyncio.to_thread(launcher.stdout.readline) == b"launched\n"
    os.killpg(launcher.pid, signal.SIGKILL)
    launcher.wait()
    triton = await triton_of(provider, "outlives")
    assert triton.is_running()
    client = EngineClient(await view_of(provider, "outlives"))
    assert await client.echo("still here") == "still here"
    await client.close()


async def test_a_killed_triton_starts_again_in_the_same_instance(provider: LocalProvider) -> None:
    await provider.launch(instance_spec("noop", "restarted"))
    triton = await triton_of(provider, "restarted")
    before = await view_of(provider, "restarted")
    triton.kill()
    after = await ready_again(provider, "restarted")
    assert (after.started_at_ms, after.exited_at_ms) == (before.started_at_ms, None)
    client = EngineClient(after)
    assert await client.echo("again") == "again"
    await client.close()
    assert len(list(Path("/dev/shm").glob("modelyard-restarted-*"))) == 1


async def test_a_killed_stub_is_replaced_and_calls_in_flight_end(provider: LocalProvider) -> None:
    """Triton alone would stay READY for ever, with its streams hanging."""
    await provider.launch(instance_spec("llamacpp", "stub-killed", slots="2", context_tokens="512"))
    triton = await triton_of(provider, "stub-killed")
    client = EngineClient(await view_of(provider, "stub-killed"))
    answering = [asyncio.Event(), asyncio.Event()]
    in_flight = [asyncio.create_task(outcome_of(client, event)) for event in answering]
    for event in answering:
        await asyncio.wait_for(event.wait(), 10)
    # Both slots are taken, so these wait.
    in_flight += [asyncio.create_task(outcome_of(client)) for _ in range(2)]
    (stub,) = triton.children()
    killed_s = time.monotonic()
    stub.kill()
    assert all(await asyncio.gather(*in_flight))
    ended_s = time.monotonic() - killed_s
    again = EngineClient(await ready_again(provider, "stub-killed"))
    assert ended_s < 5
    assert sum((await again.generate("Hello", max_tokens=3, ignore_eos=True)).output_tokens) == 3
    await again.close()
    await client.close()


async def test_an_instance_whose_stub_dies_while_it_drains_ends_soon(provider: LocalProvider) -> None:
    """Triton alone would wait for its calls as long as it may, and the instance is billed until it ends."""
    await provider.launch(instance_spec("llamacpp", "drain-broken", slots="1", context_tokens="512"))
    triton = await triton_of(provider, "drain-broken")
    client = EngineClient(await view_of(provider, "drain-broken"))
    answering = asyncio.Event()
    running = asyncio.create_task(outcome_of(client, answering))
    await asyncio.wait_for(answering.wait(), 10)
    ending = asyncio.create_task(provider.terminate("drain-broken"))
    (stub,) = triton.children()
    stub.kill()
    async with asyncio.timeout(20):
        assert await running
        await ending
    assert (await view_of(provider, "drain-broken")).detail == "terminated"
    await client.close()


async def outcome_of(client: EngineClient, answering: asyncio.Event | None = None) -> str:
    """How a long call ended: its error, or nothing."""
    try:
        answer = await client.generate("Hello", max_tokens=400, ignore_eos=True, timeout_s=30, answering=answering)
        return answer.error
    except grpc.aio.AioRpcError as error:
        return error.code().name


async def test_a_deaf_stub_is_found_by_its_canary(provider: LocalProvider) -> None:
    await provider.launch(instance_spec("noop", "deaf"))
    triton = await triton_of(provider, "deaf")
    (stub,) = triton.children()
    stub.suspend()
    client = EngineClient(await ready_again(provider, "deaf"))
    assert await client.echo("heard") == "heard"
    await client.close()
    assert not stub.is_running()


async def test_a_load_that_hangs_begins_anew(tmp_path: Path) -> None:
    """A stub that waits for ever ends with its Triton. Here it waits for a pipe, in the place of its weights."""
    spec = instance_spec("llamacpp", "hangs", slots="1", context_tokens="512")
    ((name, real),) = spec.artifacts.items()
    weights = tmp_path / "weights.gguf"
    os.mkfifo(weights)
    # Between two starts there has to be time for the right weights.
    settings = local_settings(tmp_path, load_idle_s=2.0, restart_backoff_s=5.0)
    async with local_provider(settings) as provider:
        await provider.launch(replace(spec, artifacts={name: str(weights)}))
        again = await wait_for_view(provider, "hangs", lambda view: view.detail.startswith("Triton starts again"))
        weights.unlink()
        weights.symlink_to(real)
        await ready_again(provider, "hangs")
        assert "used no processor and no disk for" in again.detail
        assert any("triton_python_b" in line and " is sleeping (" in line for line in await provider.logs("hangs", 500))


async def test_an_instance_whose_keeper_is_killed_was_released_at_its_last_heartbeat(provider: LocalProvider) -> None:
    await provider.launch(instance_spec("noop", "unkept"))
    triton = await triton_of(provider, "unkept")
    stubs = triton.children()
    view = await view_of(provider, "unkept")
    killed_ms = time.time() * 1000
    os.kill(int(view.handle["keeper_pid"]), signal.SIGKILL)
    ended = await wait_for_state(provider, "unkept", InstanceState.EXITED)
    assert ended.exited_at_ms is not None
    assert killed_ms - 1500 < ended.exited_at_ms <= killed_ms + 50
    await wait_until(lambda: not any(process.is_running() for process in (triton, *stubs)))
    assert list(Path("/dev/shm").glob("modelyard-unkept-*")) == []
    assert await provider.terminate("unkept") == ended.exited_at_ms


async def test_an_instance_of_another_boot_is_not_taken_for_a_living_one(
    provider: LocalProvider, settings: LocalSettings
) -> None:
    """Even where the process number, and all else, happens to fit."""
    await provider.launch(instance_spec("noop", "rebooted"))
    await wait_for_state(provider, "rebooted", InstanceState.READY)
    started_file = settings.instances_dir / "rebooted" / "started.json"
    started = json.loads(started_file.read_text())
    started_file.write_text(json.dumps({**started, "boot_id": "another boot"}))
    assert (await view_of(provider, "rebooted")).state is InstanceState.EXITED
    # The record was forged, so the keeper lives; it must not stay behind.
    os.kill(int(started["keeper_pid"]), signal.SIGTERM)
    await wait_until(lambda: not psutil.pid_exists(int(started["keeper_pid"])))
