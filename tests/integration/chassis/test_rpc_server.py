"""What the server does around every call: races, limits, deadlines, absences, and what callers learn of them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from modelyard.deploy.v1 import deploy_pb2, deploy_pb2_grpc
from modelyard.type.v1 import access_pb2
from sqlalchemy import MetaData, text

from chassis.access import AccessPolicy, TokenVerifier, issue_token, new_signing_key
from chassis.access.policy import AccessUndeclared
from chassis.database import Database, chassis_tables
from chassis.errors import InvalidArgument
from chassis.ids import uid_time_ms
from chassis.rpc import RpcServer, ServedService
from chassis.rpc.idempotency import answered_before, remember_answer
from chassis.rpc.server import ListenerRefused
from tests.clock import ManualClock
from tests.conftest import DatabaseFactory

METADATA = MetaData()
CHASSIS = chassis_tables(METADATA)
PRIVATE_KEY, PUBLIC_KEY = new_signing_key()
SERVICE = "modelyard.deploy.v1.ProjectService"
ADMIN = (("authorization", f"Bearer {issue_token(PRIVATE_KEY, 'ann', expires_s=86_400, admin=True)}"),)

Handler = Callable[[deploy_pb2.CreateProjectRequest], Awaitable[deploy_pb2.Project]]


class Servicer(deploy_pb2_grpc.ProjectServiceServicer):
    """One method, as the test wants it; the others are not written."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def CreateProject(self, request: deploy_pb2.CreateProjectRequest, context: Any) -> deploy_pb2.Project:
        return await self._handler(request)


@asynccontextmanager
async def serving(handler: Handler, **limits: Any) -> AsyncIterator[deploy_pb2_grpc.ProjectServiceAsyncStub]:
    server = RpcServer(
        "127.0.0.1:0",
        [ServedService(SERVICE, deploy_pb2_grpc, Servicer(handler))],
        AccessPolicy(TokenVerifier(PUBLIC_KEY)),
        **limits,
    )
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield deploy_pb2_grpc.ProjectServiceStub(channel)
    await server.stop(0)


def create(stub: Any, project: str = "shop", request_id: str = "r1", **options: Any) -> Any:
    request = deploy_pb2.CreateProjectRequest(project_id=project, request_id=request_id)
    return stub.CreateProject(request, metadata=ADMIN, **options)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, grpc.aio.AioRpcError]:
    """Code and reason of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(failed.value)
    for detail in status.details if status is not None else ():
        if detail.Unpack(info):
            break
    return failed.value.code(), info.reason, failed.value


def racing(database: Database) -> Handler:
    """A write that looks, decides and saves; the first two to arrive have both looked before one saves."""
    both_looked = asyncio.Barrier(2)
    runs = 0

    async def handler(request: deploy_pb2.CreateProjectRequest) -> deploy_pb2.Project:
        nonlocal runs
        runs += 1
        first_runs = runs <= 2
        async with database.unit_of_work() as uow:
            before = await answered_before(uow, database, "ann", request, deploy_pb2.Project)
        if before is not None:
            return before
        if first_runs:
            await both_looked.wait()
        answer = deploy_pb2.Project(name=f"projects/{request.project_id}", uid=str(runs))
        async with database.unit_of_work() as uow:
            await remember_answer(uow, database, ManualClock(), "ann", request, answer)
        return answer

    return handler


async def test_a_repeat_that_overtakes_gets_the_first_answer(make_database: DatabaseFactory) -> None:
    """Two calls with one request id at the same moment are one write."""
    database = await make_database(CHASSIS, METADATA)
    async with serving(racing(database)) as stub:
        first, second = await asyncio.gather(create(stub), create(stub))
    assert first == second


async def test_another_request_that_overtakes_is_told_so(make_database: DatabaseFactory) -> None:
    """Two different writes under one request id at the same moment: one is done, the other refused."""
    database = await make_database(CHASSIS, METADATA)
    async with serving(racing(database)) as stub:
        answers = await asyncio.gather(create(stub, "shop"), create(stub, "lab"), return_exceptions=True)
        (failed,) = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert failed.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_a_race_without_end_is_aborted(make_database: DatabaseFactory) -> None:
    """Whoever loses twice may try again; nothing broke."""
    database = await make_database(CHASSIS, METADATA)

    async def handler(request: deploy_pb2.CreateProjectRequest) -> deploy_pb2.Project:
        async with database.unit_of_work() as uow:
            for _ in range(2):
                await remember_answer(uow, database, ManualClock(), "ann", request, deploy_pb2.Project())
        return deploy_pb2.Project()

    async with serving(handler) as stub:
        assert (await refusal(create(stub)))[:2] == (grpc.StatusCode.ABORTED, "CONCURRENT_CHANGE")


async def test_a_request_id_is_printable() -> None:
    """PostgreSQL stores no NUL; the caller is told before it tries."""
    asked = asyncio.Event()

    async def handler(request: deploy_pb2.CreateProjectRequest) -> deploy_pb2.Project:
        asked.set()
        await answered_before(None, None, "ann", request, deploy_pb2.Project)  # type: ignore[arg-type]
        return deploy_pb2.Project()

    async with serving(handler) as stub:
        code, reason, _ = await refusal(create(stub, request_id="r\0"))
    assert asked.is_set()
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


async def test_a_locked_database_is_an_absence(tmp_path: Any) -> None:
    """A database that does not answer in time is worth another try, and says when."""
    path = tmp_path / "test.db"
    database = Database(f"sqlite+aiosqlite:///{path}", CHASSIS, busy_timeout_ms=20)

    async def handler(request: deploy_pb2.CreateProjectRequest) -> deploy_pb2.Project:
        async with database.unit_of_work() as uow:
            await uow.session.execute(text("select 1"))
        return deploy_pb2.Project()

    async with serving(handler) as stub:
        await create(stub)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("begin exclusive")
        code, reason, failed = await refusal(create(stub))
        other.close()
    await database.dispose()
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
    status = rpc_status.from_call(failed)
    assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)


async def forever(request: deploy_pb2.CreateProjectRequest) -> deploy_pb2.Project:
    await asyncio.Event().wait()
    return deploy_pb2.Project()


async def test_a_call_without_a_deadline_gets_one() -> None:
    """The server's own limit is a refusal like any other."""
    async with serving(forever, deadline_s_default=0.05) as stub:
        assert (await refusal(create(stub)))[:2] == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")


async def test_a_timeout_inside_is_no_deadline() -> None:
    """Something that timed out within a call broke on our side; what it was stands in the log alone."""

    async def handler(request: deploy_pb2.CreateProjectRequest) -> deploy_pb2.Project:
        raise TimeoutError("secret detail")

    async with serving(handler) as stub:
        code, reason, failed = await refusal(create(stub))
    assert (code, reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in str(failed.details())


async def test_a_method_nobody_wrote() -> None:
    """What is not served says so, with a reason like every refusal."""
    async with serving(forever) as stub:
        call = stub.ListProjects(deploy_pb2.ListProjectsRequest(), metadata=ADMIN)
        assert (await refusal(call))[:2] == (grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED")


def request_ids(metadata: Any) -> list[str]:
    return [value for name, value in metadata if name == "x-request-id"]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("given", "is_kept"), [("mine-1", True), ("not one", False), (None, False)])
async def test_an_answer_names_its_request(given: str | None, is_kept: bool, fails: bool) -> None:
    """Once, in its trailing metadata: by the id that the caller gave, or by a new one."""

    async def handler(request: deploy_pb2.CreateProjectRequest) -> deploy_pb2.Project:
        if fails:
            raise InvalidArgument("refused")
        return deploy_pb2.Project()

    async with serving(handler) as stub:
        named = (("x-request-id", given),) if given else ()
        call = stub.CreateProject(deploy_pb2.CreateProjectRequest(), metadata=(*ADMIN, *named))
        if fails:
            _, _, error = await refusal(call)
            assert request_ids(error.trailing_metadata()) == request_ids(await call.trailing_metadata())
        else:
            await call
        (told,) = request_ids(await call.trailing_metadata())
        assert (told == given) == is_kept
        assert is_kept or uid_time_ms(told)


async def test_a_caller_that_leaves_ends_the_work() -> None:
    """Nothing goes on for nobody."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def handler(request: deploy_pb2.CreateProjectRequest) -> deploy_pb2.Project:
        began.set()
        try:
            return await forever(request)
        finally:
            ended.set()

    async with serving(handler) as stub:
        call = create(stub)
        async with asyncio.timeout(10):
            await began.wait()
            call.cancel()
            await ended.wait()


async def test_a_request_that_is_too_large() -> None:
    """Refused before it is read."""
    async with serving(forever, message_bytes_max=1000) as stub:
        code, _, _ = await refusal(create(stub, project="x" * 2000))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_more_calls_than_the_server_takes() -> None:
    """Refused at once, not queued."""
    async with serving(forever, concurrent_rpcs_max=1, deadline_s_default=2.0) as stub:
        calls = [asyncio.ensure_future(refusal(create(stub))) for _ in range(3)]
        async with asyncio.timeout(10):
            answers = [await call for call in calls]
    codes = [code for code, _, _ in answers]
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 2


async def test_a_stop_lets_calls_finish() -> None:
    """What was begun is answered within the grace."""
    began, go_on = asyncio.Event(), asyncio.Event()

    async def handler(request: deploy_pb2.CreateProjectRequest) -> deploy_pb2.Project:
        began.set()
        await go_on.wait()
        return deploy_pb2.Project(name="projects/shop")

    server = RpcServer(
        "127.0.0.1:0",
        [ServedService(SERVICE, deploy_pb2_grpc, Servicer(handler))],
        AccessPolicy(TokenVerifier(PUBLIC_KEY)),
    )
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = asyncio.ensure_future(create(deploy_pb2_grpc.ProjectServiceStub(channel)))
        await began.wait()
        stopping = asyncio.ensure_future(server.stop(10))
        go_on.set()
        assert (await call).name == "projects/shop"
        await stopping


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:443", "example.com:443"])
async def test_clear_text_stays_on_the_machine(address: str) -> None:
    """A listener that others reach is refused without TLS."""
    with pytest.raises(ListenerRefused, match="TLS"):
        RpcServer(address, [], AccessPolicy(TokenVerifier(PUBLIC_KEY)))


@pytest.mark.parametrize(("role", "streams", "why"), [(0, False, "no access rule"), (7, True, "stream of requests")])
def test_what_no_rule_covers_is_not_served(role: int, streams: bool, why: str) -> None:
    """A method without a rule, or with requests no rule can be checked against, keeps the server from starting."""
    name = f"Uncovered{role}"
    file = descriptor_pb2.FileDescriptorProto(
        name=f"test/{name}.proto", package="test", dependency=["google/protobuf/empty.proto"]
    )
    method = file.service.add(name=name).method.add(
        name="Do",
        input_type=".google.protobuf.Empty",
        output_type=".google.protobuf.Empty",
        client_streaming=streams,
    )
    method.options.Extensions[access_pb2.access].role = role
    descriptor_pool.Default().Add(file)
    with pytest.raises(AccessUndeclared, match=why):
        AccessPolicy(TokenVerifier(PUBLIC_KEY)).learn([f"test.{name}"])
