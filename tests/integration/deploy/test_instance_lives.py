"""Instances are launched, adopted, observed and released so that none runs unpaid and none is billed that is gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from modelyard.deploy.v1 import deploy_pb2, events_pb2
from sqlalchemy.exc import OperationalError

from chassis.clock import ms_from_time
from services.deploy.compute.interface import InstanceState as Observed
from services.deploy.compute.interface import LaunchRefused
from services.deploy.domain.deployments import DeploymentState, InstanceState
from services.deploy.usecases.deployments import delete_deployment
from tests.clock import START
from tests.infra.instances import wait_until
from tests.integration.deploy.build import ENDPOINT, Platform

START_MS = ms_from_time(START)


def release_ms(event: events_pb2.InstanceReleased) -> int:
    return event.release_time.ToMilliseconds()


async def delete(platform: Platform, name: str = "blue") -> None:
    await delete_deployment(platform.database, platform.clock, platform.project_uid, ENDPOINT, name, "", force=True)


@pytest.fixture
async def deployed(platform: Platform) -> Platform:
    """One managed deployment of one instance, accepted and not looked at yet."""
    await platform.add_endpoint()
    await platform.deploy()
    return platform


async def test_a_row_and_its_event_are_committed_before_the_launch(deployed: Platform) -> None:
    """What runs is known, whatever dies in between."""
    deployed.provider.gate.clear()
    await deployed.look(settle=False)
    await wait_until(lambda: bool(deployed.provider.launched))
    (row,) = await deployed.instances()
    (allocated,) = await deployed.events(events_pb2.InstanceAllocated)
    assert (row.uid, row.state) == (deployed.provider.launched[0], InstanceState.ALLOCATED)
    assert (allocated.instance_uid, allocated.allocate_time.ToMilliseconds()) == (row.uid, row.allocate_ms)
    deployed.provider.gate.set()
    await asyncio.wait(deployed.actions())


async def test_a_launch_that_a_crash_prevented_is_made_up_for(deployed: Platform) -> None:
    """The next process finds the row and no instance: it launches that row, and allocates no other."""
    deployed.provider.gate.clear()
    await deployed.look(settle=False)
    await wait_until(lambda: bool(deployed.provider.launched))
    await deployed.reconciler.close()
    deployed.provider.gate.set()
    deployed.restarted()
    await deployed.look()
    (row,) = await deployed.instances()
    assert deployed.provider.alive == [row.uid]


async def test_an_instance_that_was_launched_before_a_crash_is_adopted(deployed: Platform) -> None:
    """The next process launches nothing that the provider shows."""
    await deployed.look()
    deployed.restarted()
    deployed.provider.answer_all()
    await deployed.look()
    assert len(deployed.provider.launched) == 1
    assert [row.state for row in await deployed.instances()] == [InstanceState.READY]


async def test_a_launch_that_takes_long_is_not_repeated(deployed: Platform) -> None:
    """Passes that do not see the instance yet leave the launch alone."""
    deployed.provider.gate.clear()
    for _ in range(3):
        await deployed.look(settle=False)
    await wait_until(lambda: bool(deployed.provider.launched))
    deployed.provider.gate.set()
    await asyncio.wait(deployed.actions())
    assert len(deployed.provider.launched) == 1


@pytest.mark.parametrize("answering", [True, False])
async def test_an_instance_that_vanished_is_billed_to_where_it_was_last_seen(
    deployed: Platform, answering: bool
) -> None:
    """Nobody saw the end, so the doubt is the platform's; also for one that had not answered yet."""
    await deployed.look()
    if answering:
        deployed.provider.answer_all()
    deployed.clock.advance(10)
    await deployed.look()
    deployed.provider.views.clear()
    deployed.clock.advance(10)
    await deployed.look()
    (released,) = await deployed.releases()
    assert (release_ms(released) - START_MS, released.witness) == (10_000, "last-observed")


async def test_an_instance_that_vanished_is_replaced_by_another(deployed: Platform) -> None:
    """A new life has a new uid."""
    await deployed.until_active()
    deployed.provider.views.clear()
    await deployed.look()
    assert len(set(deployed.provider.launched)) == len(deployed.provider.launched) == 2


async def test_an_instance_nobody_asked_for_is_ended(platform: Platform) -> None:
    """What runs and belongs to no living row would run unpaid."""
    platform.provider.show("orphan", Observed.READY)
    await platform.look()
    assert platform.provider.terminated == ["orphan"]


async def test_an_end_that_was_seen_is_billed_exactly(deployed: Platform) -> None:
    """The keeper's exit, to the millisecond."""
    await deployed.until_active()
    deployed.clock.advance(7.125)
    await delete(deployed)
    await deployed.look()
    await deployed.look()
    (released,) = await deployed.releases()
    assert (release_ms(released) - START_MS, released.witness) == (7_125, "exit")


async def test_a_release_is_told_once(deployed: Platform) -> None:
    """However often one looks afterwards, in this process or the next."""
    await deployed.until_active()
    await delete(deployed)
    for _ in range(3):
        await deployed.look()
    deployed.restarted()
    await deployed.look()
    assert len(await deployed.releases()) == 1


@pytest.mark.parametrize("exited_after_s", [-30, 5])
async def test_a_release_is_never_before_what_was_told(deployed: Platform, exited_after_s: int) -> None:
    """An observation that was published stands, and so does the allocation, whatever a provider's clock says."""
    await deployed.look()
    deployed.clock.advance(60)
    await deployed.look()
    deployed.provider.fail((await deployed.instances())[0].uid)
    deployed.provider.change(deployed.provider.launched[0], exited_at_ms=START_MS + exited_after_s * 1000)
    await deployed.look()
    (observed,) = await deployed.events(events_pb2.InstanceObserved)
    (released,) = await deployed.releases()
    assert release_ms(released) == observed.through_time.ToMilliseconds() == START_MS + 60_000


async def test_a_living_instance_is_told_each_minute(deployed: Platform) -> None:
    """Not with every look, and never through more than was seen."""
    await deployed.look()
    for _ in range(13):
        deployed.clock.advance(10)
        await deployed.look()
    through = [event.through_time.ToMilliseconds() for event in await deployed.events(events_pb2.InstanceObserved)]
    assert [moment - START_MS for moment in through] == [60_000, 120_000]


async def test_an_instance_lived_only_until_the_look_began(deployed: Platform) -> None:
    """Time that passes while the provider is asked was not observed."""
    await deployed.look()
    listing = deployed.provider.list

    async def slow_list() -> Any:
        deployed.clock.advance(90)
        return await listing()

    deployed.provider.list = slow_list  # type: ignore[method-assign]
    await deployed.look()
    assert (await deployed.instances())[0].through_ms == START_MS


async def test_an_instance_that_is_not_wanted_any_more_before_its_launch_costs_nothing(deployed: Platform) -> None:
    """A crash lay between its row and its launch, and meanwhile the deployment was deleted."""
    deployed.provider.gate.clear()
    await deployed.look(settle=False)
    await deployed.reconciler.close()
    deployed.restarted()
    await delete(deployed)
    deployed.clock.advance(30)
    await deployed.look()
    await deployed.look()
    (released,) = await deployed.releases()
    assert release_ms(released) == START_MS
    assert deployed.provider.alive == []


async def test_an_instance_that_is_being_launched_is_ended_after_it_started(deployed: Platform) -> None:
    """Deleting while a launch is under way leaves nothing running and nothing unbilled."""
    deployed.provider.gate.clear()
    await deployed.look(settle=False)
    await wait_until(lambda: bool(deployed.provider.launched))
    await delete(deployed)
    await deployed.look(settle=False)
    await deployed.look(settle=False)
    assert await deployed.releases() == []
    deployed.provider.gate.set()
    await asyncio.wait(deployed.actions())
    await deployed.look()
    await deployed.look()
    assert deployed.provider.alive == []
    assert len(await deployed.releases()) == 1


@pytest.mark.parametrize(
    ("error", "detail"), [(LaunchRefused("no such engine"), "no such engine"), (OSError(28, "No space"), "OSError")]
)
async def test_a_launch_that_fails_costs_nothing(deployed: Platform, error: Exception, detail: str) -> None:
    """Nothing ran, so the release is the allocation, however long trying took."""
    deployed.provider.errors["launch"] = error
    await deployed.look()
    deployed.clock.advance(30)
    await deployed.look()
    released = await deployed.releases()
    assert [release_ms(event) for event in released] == [START_MS]
    assert detail in (await deployed.instances())[0].state_detail


async def test_launches_that_fail_are_not_tried_for_ever(deployed: Platform) -> None:
    """Three in a row, then the deployment is FAILED and says why."""
    deployed.provider.errors["launch"] = OSError(28, "No space left on device")
    for _ in range(6):
        await deployed.look()
    row = await deployed.deployment()
    assert len(deployed.provider.launched) == 3
    assert (row.state, "OSError" in row.state_detail) == (DeploymentState.FAILED, True)


async def test_a_launch_that_reported_an_error_and_started_is_adopted(deployed: Platform) -> None:
    """What the provider shows counts, not what the call said."""
    launch = deployed.provider.launch

    async def start_and_raise(spec: Any) -> None:
        await launch(spec)
        raise TimeoutError("no word from the keeper")

    deployed.provider.launch = start_and_raise  # type: ignore[method-assign]
    await deployed.until_active()
    assert (await deployed.deployment()).state == DeploymentState.ACTIVE
    assert len(deployed.provider.alive) == 1


async def test_instances_that_break_at_start_end_in_failed(deployed: Platform) -> None:
    """Three starts in a row, each billed for its own life; none is tried after that."""
    for _ in range(5):
        await deployed.look()
        for uid in deployed.provider.alive:
            deployed.provider.fail(uid, "model load ended with status 1")
    row = await deployed.deployment()
    assert (row.state, row.state_detail) == (DeploymentState.FAILED, "model load ended with status 1")
    assert len(deployed.provider.launched) == len(await deployed.releases()) == 3


@pytest.mark.parametrize("end", ["exits", "vanishes"])
async def test_an_instance_that_ends_before_it_answers_is_a_failed_start(deployed: Platform, end: str) -> None:
    """Whoever ended it: a keeper that is killed at each start must not be started for ever."""
    for _ in range(6):
        await deployed.look()
        await deployed.look()
        for uid in deployed.provider.alive:
            if end == "vanishes":
                del deployed.provider.views[uid]
            else:
                exited_at_ms = deployed.clock.now_ms()
                deployed.provider.change(uid, state=Observed.EXITED, exited_at_ms=exited_at_ms, detail="was killed")
    assert len(deployed.provider.launched) == 3
    row = await deployed.deployment()
    assert (row.state, bool(row.state_detail)) == (DeploymentState.FAILED, True)


async def test_an_instance_that_answered_before_is_replaced_however_often_it_goes(deployed: Platform) -> None:
    """A machine that restarts now and then is no failing deployment."""
    for _ in range(5):
        await deployed.until_active()
        deployed.provider.views.clear()
        deployed.clock.advance(1)
    await deployed.until_active()
    assert (await deployed.deployment()).state == DeploymentState.ACTIVE


@pytest.mark.parametrize("count", [1, 2])
async def test_scaling_tries_a_failed_deployment_again(deployed: Platform, count: int) -> None:
    """Also to the size it has; who looks then is not told of the old failure."""
    deployed.provider.errors["launch"] = LaunchRefused("no room")
    for _ in range(5):
        await deployed.look()
    deployed.provider.errors.clear()
    assert (await deployed.deployment()).state == DeploymentState.FAILED
    again = await deployed.scale(count)
    assert (again.state, again.state_detail) == (deploy_pb2.DEPLOYMENT_STATE_UPDATING, "")
    await deployed.until_active()
    row = await deployed.deployment()
    assert (row.state, row.state_detail) == (DeploymentState.ACTIVE, "")


async def test_one_instance_that_answers_does_not_excuse_another(deployed: Platform) -> None:
    """Failed starts are forgotten when a start succeeds, not while an older instance serves on."""
    await deployed.until_active()
    await deployed.scale(2)
    for _ in range(8):
        await deployed.look()
        for uid in deployed.provider.alive[1:]:
            deployed.provider.fail(uid)
    assert len(deployed.provider.launched) == 1 + 3
    assert (await deployed.deployment()).state == DeploymentState.UPDATING


async def test_scaling_down_keeps_the_instance_that_answers(deployed: Platform) -> None:
    """The newest goes first, but never the only one that serves."""
    await deployed.scale(2)
    await deployed.look()
    oldest, newest = (row.uid for row in await deployed.instances())
    deployed.provider.answer(newest)
    await deployed.look()
    await deployed.scale(1)
    await deployed.look()
    assert deployed.provider.terminated == [oldest]


async def test_an_end_that_fails_is_tried_again_and_billed_on(deployed: Platform) -> None:
    """It runs, so it is billed; the next look asks again."""
    await deployed.until_active()
    await delete(deployed)
    deployed.provider.errors["terminate"] = OSError("busy")
    await deployed.look()
    deployed.clock.advance(5)
    await deployed.look()
    assert await deployed.releases() == []
    deployed.provider.errors.clear()
    await deployed.look()
    await deployed.look()
    (released,) = await deployed.releases()
    assert release_ms(released) - START_MS == 5_000


async def test_an_action_that_fails_waits_for_the_next_look(deployed: Platform) -> None:
    """It does not wake the loop: haste would spin while a disk is full."""
    await deployed.until_active()
    await delete(deployed)
    deployed.provider.errors["terminate"] = OSError("busy")
    before = deployed.reconciler.wanted.count
    await deployed.look()
    assert deployed.reconciler.wanted.count == before


@pytest.mark.parametrize("error", [OSError("disk away"), OperationalError("select", {}, Exception("locked"))])
async def test_the_loop_outlives_a_database_or_provider_that_is_away(deployed: Platform, error: Exception) -> None:
    """It tries again, and serves on when they are back."""
    deployed.provider.errors["list"] = error
    loop = asyncio.create_task(deployed.reconciler.run())
    try:
        for _ in range(3):
            deployed.reconciler.wanted.signal()
            await asyncio.sleep(0)
        deployed.provider.errors.clear()
        deployed.reconciler.wanted.signal()
        await wait_until(lambda: bool(deployed.provider.launched))
    finally:
        loop.cancel()
        await asyncio.wait([loop, *deployed.actions()])


async def test_a_bug_ends_the_loop(deployed: Platform) -> None:
    """An error nobody expected is not swallowed: the service ends and is started again."""
    deployed.provider.errors["list"] = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        await deployed.reconciler.run()


async def test_a_wish_that_comes_while_the_loop_looks_is_not_missed(deployed: Platform) -> None:
    """The signal falls between reading the rows and waiting: the next look follows at once."""
    looks = 0
    listing = deployed.provider.list

    async def count_looks() -> Any:
        nonlocal looks
        looks += 1
        if looks == 1:
            deployed.reconciler.wanted.signal()
        return await listing()

    deployed.provider.list = count_looks  # type: ignore[method-assign]
    deployed.reconciler._interval_s = 3600
    loop = asyncio.create_task(deployed.reconciler.run())
    try:
        await wait_until(lambda: looks >= 2, timeout_s=5)
    finally:
        loop.cancel()
        await asyncio.wait([loop, *deployed.actions()])


async def test_records_of_an_ended_instance_are_kept_a_while(deployed: Platform) -> None:
    """Its log is wanted most when it failed."""
    await deployed.until_active()
    await delete(deployed)
    await deployed.look()
    deployed.clock.advance(3600)
    await deployed.look()
    assert len(deployed.provider.views) == 1
    deployed.clock.advance(1)
    await deployed.look()
    assert deployed.provider.views == {}


async def test_a_clean_stop_ends_and_releases_everything(deployed: Platform) -> None:
    """Also pool instances; each billable end is told, at its own time."""
    await deployed.add_endpoint("chat", 2)
    await deployed.deploy("one", endpoint="chat", kind=2)
    await deployed.until_active()
    deployed.clock.advance(3)
    await deployed.reconciler.release_all()
    assert deployed.provider.alive == []
    assert {row.state for row in await deployed.instances()} == {InstanceState.RELEASED}
    assert [release_ms(event) - START_MS for event in await deployed.releases()] == [3_000]


async def test_a_clean_stop_goes_on_past_an_instance_that_does_not_end(deployed: Platform) -> None:
    """The others are released; the row says RELEASING, so the next start ends it."""
    await deployed.until_active()
    deployed.provider.errors["terminate"] = OSError("busy")
    await deployed.reconciler.release_all()
    assert [row.state for row in await deployed.instances()] == [InstanceState.RELEASING]
    deployed.provider.errors.clear()
    deployed.clock.advance(1)
    deployed.restarted()
    await deployed.look()
    assert deployed.provider.terminated == [(await deployed.instances())[0].uid]


async def test_the_next_start_allocates_anew(deployed: Platform) -> None:
    """An instance that was released never comes back."""
    await deployed.until_active()
    await deployed.reconciler.release_all()
    deployed.clock.advance(1)
    deployed.restarted()
    await deployed.until_active()
    states = [row.state for row in await deployed.instances()]
    assert states == [InstanceState.RELEASED, InstanceState.READY]
    assert (await deployed.deployment()).state == DeploymentState.ACTIVE
