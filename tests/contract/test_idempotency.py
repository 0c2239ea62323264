"""Every write with a request id may be repeated, asked of the running services: found in the descriptors."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor

from chassis.ids import new_uid
from tests.contract.requests import Shop, write_request
from tests.infra.platform import service_methods

WRITES = [method for method in service_methods() if "request_id" in method.input_type.fields_by_name]
# A secret is shown once, so there is no answer to give again.
SECRET_ONCE = [method for method in WRITES if "secret" in method.output_type.fields_by_name]
REPEATABLE = [method for method in WRITES if method not in SECRET_ONCE]

every_write = pytest.mark.parametrize("method", WRITES, ids=lambda method: method.full_name)
every_repeatable = pytest.mark.parametrize("method", REPEATABLE, ids=lambda method: method.full_name)
every_secret = pytest.mark.parametrize("method", SECRET_ONCE, ids=lambda method: method.full_name)

REUSED = (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


@every_repeatable
async def test_a_repeat_gets_the_first_answer(shop: Shop, method: MethodDescriptor) -> None:
    """Sent three times it is done once, and each answer is the first one."""
    request = write_request(shop, method, 0, new_uid())
    first, *others = [await shop.ask(method, request) for _ in range(3)]
    assert first.code is grpc.StatusCode.OK, first.message
    assert others == [first, first]


@every_repeatable
async def test_repeats_at_once_get_one_answer(shop: Shop, method: MethodDescriptor) -> None:
    """A client that lost patience may overtake itself."""
    request = write_request(shop, method, 0, new_uid())
    answers = await asyncio.gather(*(shop.ask(method, request) for _ in range(5)))
    assert [answer.code for answer in answers] == [grpc.StatusCode.OK] * 5
    assert all(answer == answers[0] for answer in answers)


@every_secret
async def test_a_secret_is_shown_once(shop: Shop, method: MethodDescriptor) -> None:
    """A repeat is refused rather than given another secret, and no secret is kept to be given again."""
    request = write_request(shop, method, 0, new_uid())
    first, again = [await shop.ask(method, request) for _ in range(2)]
    assert first.code is grpc.StatusCode.OK, first.message
    assert first.response.secret
    assert (again.code, again.reason) == REUSED


@every_write
async def test_another_write_under_the_same_id(shop: Shop, method: MethodDescriptor) -> None:
    """An id stands for one write; another one under it is refused and not done."""
    request_id = new_uid()
    assert (await shop.ask(method, write_request(shop, method, 0, request_id))).code is grpc.StatusCode.OK
    other = await shop.ask(method, write_request(shop, method, 1, request_id))
    assert (other.code, other.reason, other.field) == (*REUSED, "request_id")


@every_write
async def test_ids_belong_to_their_principal(shop: Shop, method: MethodDescriptor) -> None:
    """Nobody gets another principal's answer by guessing its id."""
    request = write_request(shop, method, 0, new_uid())
    first = await shop.ask(method, request)
    other = await shop.platform.call(method, request, shop.platform.token("other-admin", admin=True))
    assert first.code is grpc.StatusCode.OK, first.message
    assert other != first
    assert other.reason != "REQUEST_ID_REUSED"


@every_write
@pytest.mark.parametrize("request_id", ["x" * 65, "line\nbreak", "nul\0"])
async def test_ids_that_cannot_be_kept(shop: Shop, method: MethodDescriptor, request_id: str) -> None:
    """An id that could not be stored is refused before anything is done."""
    answer = await shop.ask(method, write_request(shop, method, 0, request_id))
    assert (answer.code, answer.field) == (grpc.StatusCode.INVALID_ARGUMENT, "request_id")


@every_write
async def test_without_an_id_each_is_a_write_of_its_own(shop: Shop, method: MethodDescriptor) -> None:
    """Nothing is remembered for an empty id: another write is no reuse of it."""
    for number in (0, 1):
        assert (await shop.ask(method, write_request(shop, method, number, ""))).code is grpc.StatusCode.OK
