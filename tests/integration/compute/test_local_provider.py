"""The local provider on a real Triton: launch, adopt, refuse, limit, end."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from chassis.clock import SystemClock
from services.deploy.compute.interface import InstanceState, LaunchRefused
from services.deploy.compute.local import LocalProvider, touch_lease
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

HOUR_NS = 3600 * 10**9


@pytest.fixture
def settings(tmp_path: Path) -> LocalSettings:
    return local_settings(tmp_path)


@pytest_asyncio.fixture
async def provider(settings: LocalSettings) -> AsyncIterator[LocalProvider]:
    async with local_provider(settings) as provider:
        yield provider


def processes_of(settings: LocalSettings) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if str(settings.instances_dir) in line:
            found.append(line)
    return found


def shared_memory_of(instance_uid: str) -> list[Path]:
    return list(Path("/dev/shm").glob(f"modelyard-{instance_uid}-*"))


async def test_an_instance_lives_from_launch_to_terminate_and_leaves_nothing(
    provider: LocalProvider, settings: LocalSettings
) -> None:
    await provider.launch(instance_spec("noop", "life"))
    started = await view_of(provider, "life")
    assert started.state in (InstanceState.STARTING, InstanceState.READY)
    ready = await wait_for_state(provider, "life", InstanceState.READY)
    client = EngineClient(ready)
    assert await client.echo("hello") == "hello"
    await client.close()
    assert shared_memory_of("life")

    released_ms = await provider.terminate("life")
    ended = await view_of(provider, "life")
    assert (ended.state, ended.exited_at_ms, ended.detail) == (InstanceState.EXITED, released_ms, "terminated")
    assert released_ms is not None
    assert ended.started_at_ms == started.started_at_ms <= released_ms
    assert processes_of(settings) == []
    assert shared_memory_of("life") == []
    assert await provider.terminate("life") == released_ms


async def test_an_instance_that_is_told_to_end_finishes_its_calls_and_takes_no_new_ones(
    provider: LocalProvider,
) -> None:
    await provider.launch(instance_spec("llamacpp", "drained", slots="2", context_tokens="512"))
    client = EngineClient(await wait_for_state(provider, "drained", InstanceState.READY))
    answering = asyncio.Event()
    running = asyncio.create_task(client.generate("Hello", max_tokens=300, ignore_eos=True, answering=answering))
    await answering.wait()
    ending = asyncio.create_task(provider.terminate("drained"))

    async def is_refused() -> bool:
        return (await client.generate("Hello", max_tokens=1)).error.startswith("Request for unknown model: ")

    await wait_until(is_refused)
    assert not running.done()
    answer = await running
    assert (sum(answer.output_tokens), answer.finish_reasons[-1], answer.error) == (300, "length", "")
    assert await ending is not None
    await client.close()


async def test_an_instance_tells_the_time_of_who_launched_it(settings: LocalSettings) -> None:
    """The wall clock stepped back an hour since the provider started: the life is as long as it was, and is then."""
    clock = SystemClock(wall_ns=lambda: time.time_ns() + HOUR_NS)
    async with local_provider(settings, clock) as provider:
        before_ms = clock.now_ms()
        await provider.launch(instance_spec("noop", "stepped"))
        released_ms = await provider.terminate("stepped")
        ended = await view_of(provider, "stepped")
    assert released_ms is not None
    assert before_ms <= ended.started_at_ms <= released_ms <= clock.now_ms()


async def test_launching_again_changes_nothing_even_after_the_end(provider: LocalProvider) -> None:
    await provider.launch(instance_spec("noop", "twice"))
    first = await view_of(provider, "twice")
    await provider.launch(instance_spec("noop", "twice"))
    assert len(await provider.list()) == 1
    await provider.terminate("twice")
    await provider.launch(instance_spec("noop", "twice"))
    last = await view_of(provider, "twice")
    assert (last.state, last.started_at_ms) == (InstanceState.EXITED, first.started_at_ms)


async def test_another_provider_over_the_same_folder_adopts_instances(
    provider: LocalProvider, settings: LocalSettings
) -> None:
    await provider.launch(instance_spec("noop", "adopted"))
    ready = await wait_for_state(provider, "adopted", InstanceState.READY)
    adopter = LocalProvider(settings)
    assert await adopter.list() == [ready]
    assert await adopter.terminate("adopted") is not None


async def test_forgetting_needs_an_end(provider: LocalProvider) -> None:
    await provider.launch(instance_spec("noop", "kept"))
    with pytest.raises(ValueError, match="terminate it first"):
        await provider.forget("kept")
    await provider.terminate("kept")
    await provider.forget("kept")
    assert await provider.list() == []
    assert await provider.terminate("kept") is None


async def test_an_instance_ends_itself_when_the_lease_is_stale(tmp_path: Path) -> None:
    lease_file = tmp_path / "lease"
    touch_lease(lease_file)
    async with local_provider(local_settings(tmp_path, lease_file=lease_file, lease_stale_s=2.0)) as provider:
        await provider.launch(instance_spec("noop", "leased"))
        await wait_for_state(provider, "leased", InstanceState.READY)
        ended = await wait_for_view(provider, "leased", lambda view: view.state.ended, timeout_s=20)
    assert (ended.state, ended.detail) == (
        InstanceState.EXITED,
        "the platform's lease was not touched for 2 s",
    )


async def test_weights_that_do_not_load_fail_the_instance(provider: LocalProvider, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no weights at all")
    spec = replace(instance_spec("llamacpp", "broken"), artifacts={"broken.gguf": str(broken)})
    await provider.launch(spec)
    failed = await wait_for_view(provider, "broken", lambda view: view.state.ended)
    assert failed.state is InstanceState.FAILED
    assert "model load ended with" in failed.detail
    assert failed.exited_at_ms is not None
    assert any("failed to load" in line for line in await provider.logs("broken", 200))


async def test_an_instance_that_needs_too_much_memory_fails(provider: LocalProvider) -> None:
    """The keeper starts it again a few times, then ends it and says how much it used."""
    await provider.launch(replace(instance_spec("noop", "greedy"), memory_bytes=10 * 1024**2))
    failed = await wait_for_view(provider, "greedy", lambda view: view.state.ended)
    assert failed.state is InstanceState.FAILED
    assert "10485760 are its limit" in failed.detail


async def test_an_instance_runs_on_as_many_cores_as_it_has(provider: LocalProvider) -> None:
    await provider.launch(replace(instance_spec("noop", "narrow"), vcpus=1))
    view = await wait_for_state(provider, "narrow", InstanceState.READY)
    triton = psutil.Process(int(view.handle["triton_pid"]))
    assert [len(process.cpu_affinity() or []) for process in (triton, *triton.children())] == [1, 1]
    assert view.limits.startswith("enforced: 1 of 1 cores")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "vllm"}, 'engine "vllm" is unknown; there are images, llamacpp, noop, onnx, safetensors'),
        ({"artifacts": {"weights.bin": "/nowhere/weights.bin"}}, "^artifact 'weights.bin' is not"),
        ({"vcpus": 0}, "0 cores"),
    ],
)
async def test_a_spec_that_cannot_run_is_refused_and_leaves_nothing(
    provider: LocalProvider, settings: LocalSettings, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(LaunchRefused, match=message):
        await provider.launch(replace(instance_spec("noop", "refused"), **changes))  # type: ignore[arg-type]
    assert await provider.list() == []
    assert not (settings.instances_dir / "refused").exists()


async def test_the_keeper_gets_none_of_deploys_environment(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials' places and the parent to die with are deploy's own."""
    monkeypatch.setenv("MODELYARD_DEPLOY_NATS_CREDS_FILE", "/somewhere/deploy.creds")
    monkeypatch.setenv("MODELYARD_PARENT_PID", str(os.getpid()))
    await provider.launch(instance_spec("noop", "clean"))
    view = await view_of(provider, "clean")
    environment = psutil.Process(int(view.handle["keeper_pid"])).environ()
    assert not [name for name in environment if name.startswith("MODELYARD")]


async def test_watching_shows_every_change(provider: LocalProvider) -> None:
    await provider.launch(instance_spec("noop", "watched"))
    states = []
    async for view in provider.watch():
        states.append(view.state)
        if view.state is InstanceState.READY:
            await provider.terminate("watched")
        if view.state.ended:
            break
    assert states[-2:] == [InstanceState.READY, InstanceState.EXITED]


async def test_looking_does_not_wait_for_instances_that_end_slowly(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are ending, the others are seen at once."""
    ending: list[str] = []
    ended = threading.Event()

    def end_slowly(uid: str) -> None:
        ending.append(uid)
        ended.wait()

    monkeypatch.setattr(provider, "_terminate", end_slowly)
    terminations = [asyncio.create_task(provider.terminate(f"slow-{number}")) for number in range(32)]
    try:
        await wait_until(lambda: bool(ending))
        async with asyncio.timeout(5):
            assert await provider.list() == []
    finally:
        ended.set()
        await asyncio.gather(*terminations)
