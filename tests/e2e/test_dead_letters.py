"""Events that a service cannot take: an operator sees them, and replays them when what was wrong is right."""

from __future__ import annotations

from typing import Any

from chassis.bus import Bus
from chassis.clock import SystemClock
from chassis.ids import new_uid
from embedded.home import Home
from tests.infra.early_fact import early_fact
from tests.infra.tenant import until
from tests.infra.up import Up


async def test_a_dead_letter_is_listed_and_replayed(up: Up) -> None:
    """A fact from too far ahead is refused, and taken when its time is near; what cannot be read stays, with the reason.

    The exit status says whether all took effect.
    """
    clock = SystemClock()
    early, near_time = early_fact()
    deploy = await Bus.connect(up.addresses["nats"], Home(up.home).nats_credential("deploy"), "deploy")
    await deploy.publish(early)
    inference = await Bus.connect(up.addresses["nats"], Home(up.home).nats_credential("inference"), "inference")
    unreadable = "modelyard.inference.v1.usage.recorded._"
    await inference.publish_raw(unreadable, b"no usage", {"Nats-Msg-Id": new_uid()})
    await deploy.close()
    await inference.close()

    def letters(*options: str) -> dict[str, Any]:
        found = up.json("events", "dead-letters", *options)
        assert {one["service"] for one in found} <= {"billing"}
        return {one["dead_letter"]["consumer"]: one["dead_letter"] for one in found}

    async def both_are_listed() -> bool:
        return letters().keys() == {"billing-instances", "billing-usage"}

    await until(both_are_listed, "both are dead letters", s_max=30)
    assert "one day from now is allowed" in letters()["billing-instances"]["why"]
    dead_id = letters()["billing-instances"]["id"]

    async def near() -> bool:
        return clock.now() > near_time

    await until(near, "the fact's time is near", s_max=30)
    replayed = up.json("events", "replay", dead_id)
    assert replayed == {"replayed_ids": [dead_id], "failures": []}
    assert letters().keys() == {"billing-usage"}
    assert letters("--all")["billing-instances"]["replay_time"]
    assert "waits" in up.run("events", "replay", dead_id, status=2).stderr

    left = up.run("events", "replay", status=1).stdout
    assert "0 took effect, 1 did not" in left
    assert letters()["billing-usage"]["id"] in left
