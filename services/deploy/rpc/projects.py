"""ProjectService."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from modelyard.deploy.v1 import deploy_pb2, deploy_pb2_grpc

from chassis.access import current_caller
from chassis.clock import Clock, us_from_time
from chassis.database import Database
from chassis.errors import InvalidArgument, NotFound
from chassis.paging import page_size, page_token_decode, page_token_encode, split_page
from services.deploy.storage import queries
from services.deploy.storage.convert import API_KEY, ENDPOINT, api_key_to_proto, project_to_proto
from services.deploy.storage.tables import ProjectRow
from services.deploy.usecases import projects
from services.deploy.usecases.changes import Changes

Context = Any
# Newest first: later than every creation.
BEFORE_ALL_KEYS = ((1 << 63) - 1, "")


class ProjectServicer(deploy_pb2_grpc.ProjectServiceServicer):
    """Projects, members and keys."""

    def __init__(self, database: Database, clock: Clock, wanted: Changes) -> None:
        self._database = database
        self._clock = clock
        self._wanted = wanted

    async def CreateProject(self, request: deploy_pb2.CreateProjectRequest, context: Context) -> deploy_pb2.Project:
        return await projects.create_project(self._database, self._clock, current_caller().principal, request)

    async def GetProject(self, request: deploy_pb2.GetProjectRequest, context: Context) -> deploy_pb2.Project:
        async with self._database.reader() as session:
            row = await queries.project(session, current_caller().project_uid)
        if row is None:
            raise NotFound(f"project {request.name!r} does not exist", field="name")
        return project_to_proto(row)

    async def ListProjects(
        self, request: deploy_pb2.ListProjectsRequest, context: Context
    ) -> deploy_pb2.ListProjectsResponse:
        caller = current_caller()
        scope = f"ListProjects/{caller.principal}"
        (after,) = page_token_decode(request.page_token, scope, ("",))
        limit = page_size(request.page_size)
        found: list[ProjectRow] = []
        async with self._database.reader() as session:
            while len(found) <= limit and (rows := await queries.projects_page(session, after, limit + 1)):
                found += [row for row in rows if caller.is_admin or caller.principal in row.members]
                after = rows[-1].name
        shown, more = split_page(found, limit)
        return deploy_pb2.ListProjectsResponse(
            projects=[project_to_proto(row) for row in shown],
            next_page_token=page_token_encode(scope, [shown[-1].name]) if more else "",
        )

    async def AddMember(self, request: deploy_pb2.AddMemberRequest, context: Context) -> deploy_pb2.Project:
        member = request.member
        return await projects.add_member(self._database, current_caller().project_uid, member.principal, member.role)

    async def RemoveMember(self, request: deploy_pb2.RemoveMemberRequest, context: Context) -> deploy_pb2.Project:
        return await projects.remove_member(self._database, current_caller().project_uid, request.principal)

    async def CreateApiKey(
        self, request: deploy_pb2.CreateApiKeyRequest, context: Context
    ) -> deploy_pb2.CreateApiKeyResponse:
        caller = current_caller()
        expires = request.expire_time.ToDatetime(UTC) if request.HasField("expire_time") else None
        return await projects.create_api_key(
            self._database,
            self._clock,
            principal=caller.principal,
            project_uid=caller.project_uid,
            project=caller.project,
            request=request,
            expire_time=expires,
        )

    async def ListApiKeys(
        self, request: deploy_pb2.ListApiKeysRequest, context: Context
    ) -> deploy_pb2.ListApiKeysResponse:
        caller = current_caller()
        scope = f"ListApiKeys/{caller.project_uid}"
        after = page_token_decode(request.page_token, scope, BEFORE_ALL_KEYS)
        limit = page_size(request.page_size)
        async with self._database.reader() as session:
            rows, more = split_page(await queries.api_keys_page(session, caller.project_uid, after, limit + 1), limit)
            scopes = {uid for row in rows for uid in (row.endpoint_uid, *row.endpoint_uids)}
            names = await queries.endpoint_names(session, scopes)
        return deploy_pb2.ListApiKeysResponse(
            api_keys=[api_key_to_proto(row, caller.project, names) for row in rows],
            next_page_token=page_token_encode(scope, [us_from_time(rows[-1].create_time), rows[-1].id]) if more else "",
        )

    async def RevokeApiKey(self, request: deploy_pb2.RevokeApiKeyRequest, context: Context) -> deploy_pb2.ApiKey:
        caller = current_caller()
        key_id = API_KEY.parse(request.name)["key"]
        return await projects.revoke_api_key(self._database, self._clock, caller.project_uid, caller.project, key_id)

    async def RotateEndpointKey(
        self, request: deploy_pb2.RotateEndpointKeyRequest, context: Context
    ) -> deploy_pb2.CreateApiKeyResponse:
        caller = current_caller()
        if request.kind not in (projects.PRIMARY_KEY, projects.SECONDARY_KEY):
            raise InvalidArgument("kind is primary or secondary", field="kind")
        endpoint = ENDPOINT.parse(request.name)["endpoint"]
        return await projects.rotate_endpoint_key(
            self._database, self._clock, caller.project_uid, caller.project, endpoint, request.kind
        )
