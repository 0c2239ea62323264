"""Which key opens what, and where a call goes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.clock import ms_from_time
from services.inference.access.routes import RouteDirectory
from services.inference.domain.errors import (
    DeploymentRetired,
    KeyInvalid,
    ModelNotCallable,
    NoReadyInstance,
    RequestInvalid,
    RoutesStale,
)
from tests.clock import START, ManualClock
from tests.unit.inference.build import (
    CREDENTIAL,
    OTHER_PROJECT_UID,
    StillBus,
    a_deployment,
    a_key,
    a_key_directory,
    a_route,
    until,
)

HEADER = f"Bearer {CREDENTIAL}"


def stamp(seconds: float) -> Timestamp:
    return Timestamp(seconds=ms_from_time(START) // 1000 + int(seconds))


async def test_a_key_is_known_by_its_whole_credential() -> None:
    bus = StillBus()
    keys = a_key_directory(bus, ManualClock())
    bus.tell("access", "abcdefgh", a_key())
    assert (await keys.authenticate(HEADER)).key_id == "abcdefgh"
    assert (await keys.authenticate(f"bearer  {CREDENTIAL} ")).key_id == "abcdefgh"


@pytest.mark.parametrize("change", [a_key(revoked=True), None])
async def test_a_call_has_no_key_that_was_revoked_since_it_was_checked(change: Any) -> None:
    bus = StillBus()
    keys = a_key_directory(bus, ManualClock())
    bus.tell("access", "abcdefgh", a_key())
    assert keys.of_caller("abcdefgh").project_uid == a_key().project_uid
    bus.tell("access", "abcdefgh", change)
    with pytest.raises(KeyInvalid):
        keys.of_caller("abcdefgh")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer nonsense",
        CREDENTIAL,
        f"Basic {CREDENTIAL}",
        "Bearer my_abcdefgh_",
        "Bearer my_abcdefgh_secretsecretsecreu",
        "Bearer my_unknownn_secretsecretsecret",
        f"Bearer {CREDENTIAL}\x00",
        f"Bearer {CREDENTIAL}é",
    ],
)
async def test_every_wrong_key_is_refused_alike(header: str | None) -> None:
    """So that nobody learns which part was right."""
    bus = StillBus()
    keys = a_key_directory(bus, ManualClock())
    bus.tell("access", "abcdefgh", a_key())
    with pytest.raises(KeyInvalid, match=r"^the key is missing, wrong, expired or revoked"):
        await keys.authenticate(header)


async def test_a_revoked_key_is_refused() -> None:
    bus = StillBus()
    keys = a_key_directory(bus, ManualClock())
    bus.tell("access", "abcdefgh", a_key(revoked=True))
    with pytest.raises(KeyInvalid):
        await keys.authenticate(HEADER)


async def test_a_key_expires_by_this_machines_clock() -> None:
    bus, clock = StillBus(), ManualClock()
    keys = a_key_directory(bus, clock)
    bus.tell("access", "abcdefgh", a_key(expire_time=stamp(60)))
    clock.advance(59)
    await keys.authenticate(HEADER)
    clock.advance(1)
    with pytest.raises(KeyInvalid):
        await keys.authenticate(HEADER)


async def test_a_key_that_was_made_a_moment_ago_is_waited_for() -> None:
    bus = StillBus()
    keys = a_key_directory(bus, ManualClock(), arrive_s=10)
    waiting = asyncio.create_task(keys.authenticate(HEADER))
    await until(lambda: keys._arriving)
    bus.tell("access", "abcdefgh", a_key())
    assert (await waiting).key_id == "abcdefgh"


async def test_guessed_keys_do_not_wait_in_any_number() -> None:
    """As many as allowed wait; the next is refused at once, and a known key is answered meanwhile."""
    bus = StillBus()
    keys = a_key_directory(bus, ManualClock(), arrive_s=1000, arriving_max=2)
    guesses = [asyncio.create_task(keys.authenticate(f"Bearer my_guess{n}_aaaa")) for n in (2, 3)]
    await until(lambda: keys._arriving == 2)
    async with asyncio.timeout(5):
        with pytest.raises(KeyInvalid):
            await keys.authenticate("Bearer my_guess4_aaaa")
        bus.tell("access", "abcdefgh", a_key())
        await keys.authenticate(HEADER)
    for guess in guesses:
        guess.cancel()
    await asyncio.gather(*guesses, return_exceptions=True)
    assert not keys._arriving


async def test_a_key_that_is_gone_opens_nothing() -> None:
    bus = StillBus()
    keys = a_key_directory(bus, ManualClock())
    bus.tell("access", "abcdefgh", a_key())
    bus.tell("access", "abcdefgh", None)
    with pytest.raises(KeyInvalid):
        await keys.authenticate(HEADER)


async def test_copies_that_are_too_old_open_nothing() -> None:
    """A revoked key would open doors for ever."""
    bus, clock = StillBus(), ManualClock()
    keys, routes = a_key_directory(bus, clock), RouteDirectory(bus, clock, stale_s_max=60)  # type: ignore[arg-type]
    bus.tell("access", "abcdefgh", a_key())
    bus.tell("routes", "endpoint-chat", a_route())
    bus.staleness_s = 61
    with pytest.raises(RoutesStale, match="61 s ago; at most 60 s"):
        await keys.authenticate(HEADER)
    with pytest.raises(RoutesStale):
        routes.find(a_key(), "chat")


# Routes


def some_routes(*routes: object, clock: ManualClock | None = None) -> RouteDirectory:
    bus = StillBus()
    directory = RouteDirectory(bus, clock or ManualClock(), stale_s_max=60)  # type: ignore[arg-type]
    for route in routes:
        bus.tell("routes", route.endpoint_uid, route)  # type: ignore[attr-defined]
    return directory


def test_an_address_names_an_endpoint_or_one_of_its_deployments() -> None:
    routes = some_routes(a_route("chat", a_deployment("one", 100), a_deployment("two", 0)))
    assert routes.find(a_key(), "chat").deployment.deployment == "one"
    assert routes.find(a_key(), "chat/two").deployment.deployment == "two"


@pytest.mark.parametrize("model", ["other", "chat/three", "chatt", "Chat"])
def test_what_is_not_there_is_not_callable(model: str) -> None:
    with pytest.raises(ModelNotCallable, match="GET /v1/models lists what is"):
        some_routes(a_route()).find(a_key(), model)


@pytest.mark.parametrize("model", ["", "/", "chat/", "/one", "chat/one/two", "x" * 81])
def test_another_form_of_address_is_refused(model: str) -> None:
    with pytest.raises(RequestInvalid, match="is not 'ENDPOINT' or 'ENDPOINT/DEPLOYMENT'"):
        some_routes(a_route()).find(a_key(), model)


async def test_what_became_active_a_moment_ago_is_waited_for() -> None:
    bus = StillBus()
    routes = RouteDirectory(bus, ManualClock(), stale_s_max=60)  # type: ignore[arg-type]
    bus.on_the_way = lambda: bus.tell("routes", "endpoint-chat", a_route())
    assert (await routes.find_arriving(a_key(), "chat")).deployment.deployment == "one"
    with pytest.raises(ModelNotCallable):
        await routes.find_arriving(a_key(), "other")


async def test_no_more_calls_than_so_many_wait_for_what_may_come() -> None:
    bus = StillBus()
    routes = RouteDirectory(bus, ManualClock(), stale_s_max=60, arriving_max=0)  # type: ignore[arg-type]
    bus.on_the_way = lambda: bus.tell("routes", "endpoint-chat", a_route())
    with pytest.raises(ModelNotCallable):
        await routes.find_arriving(a_key(), "chat")


def test_another_projects_endpoint_does_not_exist() -> None:
    """The answer is the very one for what is not there."""
    routes = some_routes(a_route("chat", project_uid=OTHER_PROJECT_UID))
    with pytest.raises(ModelNotCallable) as foreign:
        routes.find(a_key(), "chat")
    with pytest.raises(ModelNotCallable) as absent:
        some_routes().find(a_key(), "chat")
    assert foreign.value.message == absent.value.message
    assert routes.callable_with(a_key()) == []


def test_a_key_for_some_endpoints_finds_no_other() -> None:
    routes = some_routes(a_route("chat"), a_route("more"))
    key = a_key(endpoint_uids=["endpoint-more"])
    routes.find(key, "more")
    with pytest.raises(ModelNotCallable):
        routes.find(key, "chat")
    assert {name for name, _ in routes.callable_with(key)} == {"more", "more/one"}


def test_a_retired_version_is_refused_from_its_date_on() -> None:
    clock = ManualClock()
    routes = some_routes(a_route("chat", a_deployment(retire_time=stamp(60))), clock=clock)
    clock.advance(59)
    routes.find(a_key(), "chat")
    clock.advance(1)
    with pytest.raises(DeploymentRetired, match="was retired on 2026-01-15; deploy its replacement"):
        routes.find(a_key(), "chat")


def test_a_deployment_without_instances_says_when_to_come_back() -> None:
    with pytest.raises(NoReadyInstance) as refused:
        some_routes(a_route("chat", a_deployment(targets=[]))).find(a_key(), "chat")
    assert refused.value.retry_after_s == 2


def test_an_endpoint_without_traffic_says_how_to_call_it() -> None:
    with pytest.raises(ModelNotCallable, match="name one as 'chat/DEPLOYMENT'"):
        some_routes(a_route("chat", a_deployment(weight=0))).find(a_key(), "chat")


def test_a_name_that_was_given_to_another_endpoint_leads_there() -> None:
    """The old one's end may be heard after the new one's beginning."""
    bus = StillBus()
    routes = RouteDirectory(bus, ManualClock(), stale_s_max=60)  # type: ignore[arg-type]
    bus.tell("routes", "old", a_route("chat", endpoint_uid="old"))
    bus.tell("routes", "new", a_route("chat", endpoint_uid="new"))
    bus.tell("routes", "old", None)
    assert routes.find(a_key(), "chat").route.endpoint_uid == "new"


def test_models_are_listed_in_order_and_without_traffic_only_by_deployment() -> None:
    routes = some_routes(a_route("b"), a_route("a", a_deployment("x", 0), a_deployment("y", 0)))
    assert [name for name, _ in routes.callable_with(a_key())] == ["a/x", "a/y", "b", "b/one"]
