"""Projects, members and keys: names, owners, secrets, scopes, rotation."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from datetime import timedelta
from typing import Any

import pytest
from modelyard.deploy.v1 import deploy_pb2, events_pb2, routes_pb2
from modelyard.type.v1 import access_pb2
from sqlalchemy import text

from chassis.errors import InvalidArgument, Problem, RequestIdReused
from services.deploy.domain.errors import (
    ApiKeyExpiryPast,
    ApiKeyNotFound,
    EndpointNotFound,
    LastOwner,
    ProjectExists,
)
from services.deploy.domain.members import Role
from services.deploy.storage.tables import ProjectRow
from services.deploy.usecases import projects
from services.deploy.usecases.endpoints import delete_endpoint
from tests.integration.deploy.build import ANN, ENDPOINT, PROJECT, Platform


async def create(platform: Platform, name: str, request_id: str = "") -> deploy_pb2.Project:
    request = deploy_pb2.CreateProjectRequest(project_id=name, request_id=request_id)
    return await projects.create_project(platform.database, platform.clock, ANN, request)


async def make_key(platform: Platform, **changes: Any) -> deploy_pb2.CreateApiKeyResponse:
    expire_time = changes.pop("expire_time", None)
    return await projects.create_api_key(
        platform.database,
        platform.clock,
        principal=ANN,
        project_uid=platform.project_uid,
        project=PROJECT,
        request=deploy_pb2.CreateApiKeyRequest(parent=f"projects/{PROJECT}", **changes),
        expire_time=expire_time,
    )


async def rotate(platform: Platform, kind: int = projects.PRIMARY_KEY) -> deploy_pb2.CreateApiKeyResponse:
    return await projects.rotate_endpoint_key(
        platform.database, platform.clock, platform.project_uid, PROJECT, ENDPOINT, kind
    )


async def access(platform: Platform) -> dict[str, routes_pb2.KeyAccess]:
    """What inference knows of keys: the newest value of each."""
    return {key: routes_pb2.KeyAccess.FromString(value) for key, _, value in await platform.projections("access")}


# Projects


async def test_whoever_creates_a_project_owns_it(platform: Platform) -> None:
    """Its members are projected with the same transaction as its event."""
    project = await create(platform, "bakery")
    (*_, (key, _, value)) = await platform.projections("projects")
    members = access_pb2.ProjectAccess.FromString(value).members
    assert (key, [(member.principal, member.role) for member in members]) == (project.uid, [(ANN, Role.OWNER)])
    assert (await platform.events(events_pb2.ProjectCreated))[-1].project_uid == project.uid


async def test_a_projects_name_is_taken_once(platform: Platform) -> None:
    """Of two at once, one gets it and the other hears that it exists."""
    results = await asyncio.gather(create(platform, "bakery"), create(platform, "bakery"), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Project", "ProjectExists"]
    with pytest.raises(ProjectExists):
        await create(platform, PROJECT)


async def test_a_repeated_creation_gets_the_first_answer(platform: Platform) -> None:
    """Also two at once; one project, one event."""
    first, second = await asyncio.gather(create(platform, "bakery", "r1"), create(platform, "bakery", "r1"))
    assert first == second == await create(platform, "bakery", "r1")
    assert len(await platform.rows(ProjectRow)) == len(await platform.events(events_pb2.ProjectCreated)) == 2


async def test_a_request_id_is_for_one_project(platform: Platform) -> None:
    """The second name is not taken by it."""
    await create(platform, "bakery", "r1")
    with pytest.raises(RequestIdReused):
        await create(platform, "florist", "r1")
    assert {row.name for row in await platform.rows(ProjectRow)} == {PROJECT, "bakery"}


async def test_two_owners_who_leave_at_once_leave_one(platform: Platform) -> None:
    """Both see the other as an owner; only the first may go."""
    await projects.add_member(platform.database, platform.project_uid, "user:bob", Role.OWNER)
    results = await asyncio.gather(
        projects.remove_member(platform.database, platform.project_uid, ANN),
        projects.remove_member(platform.database, platform.project_uid, "user:bob"),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["LastOwner", "Project"]


async def test_a_member_who_leaves_is_projected(platform: Platform) -> None:
    """With a higher sequence than the one who came."""
    await projects.add_member(platform.database, platform.project_uid, "user:bob", Role.READER)
    await projects.remove_member(platform.database, platform.project_uid, "user:bob")
    projected = await platform.projections("projects")
    assert [sequence for _, sequence, _ in projected] == [1, 2, 3]
    assert len(access_pb2.ProjectAccess.FromString(projected[-1][2]).members) == 1


async def test_the_last_owner_stays(platform: Platform) -> None:
    """Nothing is stored when it is refused."""
    with pytest.raises(LastOwner):
        await projects.remove_member(platform.database, platform.project_uid, ANN)
    assert (await platform.rows(ProjectRow))[0].members == {ANN: Role.OWNER}


# Keys


async def test_a_secret_is_shown_once_and_kept_nowhere(platform: Platform, caplog: pytest.LogCaptureFixture) -> None:
    """Not in a row, an event, a projection, a stored answer or a log; only its digest is."""
    caplog.set_level(logging.DEBUG)
    await platform.add_endpoint()
    secrets = [(await make_key(platform, request_id="r1")).secret, (await rotate(platform)).secret]
    stored: list[str] = [caplog.text]
    async with platform.database.reader() as session:
        for table in ("api_key", "outbox", "request", "project", "endpoint"):
            rows = (await session.execute(text(f"select * from {table}"))).all()  # noqa: S608 - five names, above
            stored += [str(value) for row in rows for value in row]
    for secret in secrets:
        assert not [value for value in stored if secret.split("_")[2] in value]
        digest = hashlib.sha256(secret.encode()).digest()
        assert digest in [key.secret_sha256 for key in (await access(platform)).values()]


async def test_a_repeated_key_request_is_refused(platform: Platform) -> None:
    """The first answer cannot be given again, and a second key would be one nobody counts."""
    await make_key(platform, request_id="r1")
    with pytest.raises(RequestIdReused, match="a secret is shown once"):
        await make_key(platform, request_id="r1")
    assert len(await access(platform)) == 1


async def test_two_key_requests_at_once_make_one_key(platform: Platform) -> None:
    """The second one is refused like any repeat."""
    results = await asyncio.gather(
        make_key(platform, request_id="r1"), make_key(platform, request_id="r1"), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["CreateApiKeyResponse", "RequestIdReused"]


async def test_a_key_that_would_be_expired_is_not_made(platform: Platform) -> None:
    """Now is too late already."""
    with pytest.raises(ApiKeyExpiryPast):
        await make_key(platform, expire_time=platform.clock.now())
    key = await make_key(platform, expire_time=platform.clock.now() + timedelta(seconds=1))
    assert (await access(platform))[key.api_key.id].expire_time.seconds == key.api_key.expire_time.seconds


async def test_a_keys_scopes_are_endpoints_of_its_project(platform: Platform) -> None:
    """They are projected by uid, each once."""
    endpoint = await platform.add_endpoint()
    key = await make_key(platform, endpoints=[ENDPOINT, ENDPOINT])
    assert list((await access(platform))[key.api_key.id].endpoint_uids) == [endpoint.uid]
    with pytest.raises(EndpointNotFound):
        await make_key(platform, endpoints=["nowhere"])


async def test_a_key_has_a_limited_number_of_scopes(platform: Platform) -> None:
    """Empty means all."""
    with pytest.raises(InvalidArgument, match="101 items; at most 100"):
        await make_key(platform, endpoints=[ENDPOINT] * 101)


async def test_a_revoked_key_is_projected_as_revoked(platform: Platform) -> None:
    """Revoking it again changes nothing; another project cannot."""
    key = (await make_key(platform)).api_key
    stranger = await platform.add_project("bakery")
    with pytest.raises(ApiKeyNotFound):
        await projects.revoke_api_key(platform.database, platform.clock, stranger, "bakery", key.id)
    for _ in range(2):
        await projects.revoke_api_key(platform.database, platform.clock, platform.project_uid, PROJECT, key.id)
    assert [sequence for _, sequence, _ in await platform.projections("access")] == [1, 2]
    assert (await access(platform))[key.id].revoked


async def test_one_of_an_endpoints_keys_is_rotated_at_a_time(platform: Platform) -> None:
    """The old one of its kind stops, the other kind works on."""
    await platform.add_endpoint()
    primary, secondary = await rotate(platform), await rotate(platform, projects.SECONDARY_KEY)
    again = await rotate(platform)
    revoked = {key_id for key_id, key in (await access(platform)).items() if key.revoked}
    assert revoked == {primary.api_key.id}
    assert len({primary.secret, secondary.secret, again.secret}) == 3


async def test_two_rotations_at_once_leave_one_key(platform: Platform) -> None:
    """An endpoint has one primary key, whoever asked first."""
    await platform.add_endpoint()
    await asyncio.gather(rotate(platform), rotate(platform))
    assert [key.revoked for key in (await access(platform)).values()].count(False) == 1


async def test_deleting_an_endpoint_revokes_its_keys(platform: Platform) -> None:
    """Both; project keys that are limited to it reach nothing, and never everything."""
    endpoint = await platform.add_endpoint()
    await rotate(platform)
    await rotate(platform, projects.SECONDARY_KEY)
    scoped = await make_key(platform, endpoints=[ENDPOINT])
    await delete_endpoint(platform.database, platform.clock, platform.project_uid, ENDPOINT, "")
    known = await access(platform)
    assert {key_id for key_id, key in known.items() if not key.revoked} == {scoped.api_key.id}
    assert list(known[scoped.api_key.id].endpoint_uids) == [endpoint.uid]


async def test_no_key_is_made_for_an_endpoint_that_goes(platform: Platform) -> None:
    """Of a rotation and a deletion at once, no working key is left."""
    await platform.add_endpoint()
    results = await asyncio.gather(
        delete_endpoint(platform.database, platform.clock, platform.project_uid, ENDPOINT, ""),
        rotate(platform),
        return_exceptions=True,
    )
    assert [result for result in results if isinstance(result, Exception) and not isinstance(result, Problem)] == []
    assert [key for key in (await access(platform)).values() if not key.revoked] == []
