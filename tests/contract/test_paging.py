"""Every list pages, asked of the running services: whatever takes a page token is found in the descriptors."""

from __future__ import annotations

import base64
import json
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from chassis.paging import page_token_encode
from tests.contract.requests import Shop, list_request
from tests.infra.platform import PlatformUnderTest, access_rule, request_for, service_methods

LISTS = [method for method in service_methods() if "page_token" in method.input_type.fields_by_name]
WATCHES = [method for method in service_methods() if "resume_token" in method.input_type.fields_by_name]
# The embedded catalog has one version a model, which is one page.
SHORT = {"ListModelVersions"}
KEYS = ("name", "uid", "id", "record_id", "price_version", "model")

every_list = pytest.mark.parametrize("method", LISTS, ids=lambda method: method.full_name)
# A line belongs to one project, so another project has none of that name to page.
every_list_of_a_project = pytest.mark.parametrize(
    "method",
    [method for method in LISTS if access_rule(method).project and "line" not in method.input_type.fields_by_name],
    ids=lambda method: method.full_name,
)
every_watch = pytest.mark.parametrize("method", WATCHES, ids=lambda method: method.full_name)


def items(response: Any) -> list[Any]:
    """What the page holds: the first repeated field of the response."""
    first = next(field for field in response.DESCRIPTOR.fields if field.is_repeated)
    return list(getattr(response, first.name))


def key_of(item: Any) -> str:
    """What an item is, whatever state it is in by now."""
    inner = [getattr(item, name, None) for name in ("record", "model")]
    item = next((one for one in inner if isinstance(one, Message)), item)
    return next(getattr(item, name) for name in KEYS if name in item.DESCRIPTOR.fields_by_name)


async def page(shop: Shop, method: MethodDescriptor, size: int, token: str = "") -> Any:
    request = list_request(shop, method)
    request.page_size, request.page_token = size, token
    answer = await shop.ask(method, request)
    assert answer.code is grpc.StatusCode.OK, answer.message
    return answer.response


@pytest_asyncio.fixture(scope="module")
async def tokens(shop: Shop) -> dict[str, str]:
    """A token of each list, by its method."""
    found = {method.full_name: (await page(shop, method, 1)).next_page_token for method in LISTS}
    assert {method.full_name for method in LISTS if not found[method.full_name] and method.name not in SHORT} == set()
    return {name: token for name, token in found.items() if token}


@every_list
async def test_single_steps_walk_through_all(shop: Shop, method: MethodDescriptor) -> None:
    """Pages of one item give what one large page gives, in its order, without a gap or a twin."""
    whole = [key_of(item) for item in items(await page(shop, method, 1000))]
    assert len(whole) > (0 if method.name in SHORT else 1)
    assert len(set(whole)) == len(whole)
    seen: list[str] = []
    token, used = "", set()
    while True:
        response = await page(shop, method, 1, token)
        assert len(items(response)) <= 1
        seen += [key_of(item) for item in items(response)]
        token = response.next_page_token
        if not token:
            break
        assert token not in used
        used.add(token)
    assert seen == whole


@every_list
async def test_sizes(shop: Shop, method: MethodDescriptor) -> None:
    """Zero asks for the default, too much gets what there is, below zero is refused."""
    request = list_request(shop, method)
    request.page_size = -1
    answer = await shop.ask(method, request)
    assert (answer.code, answer.field) == (grpc.StatusCode.INVALID_ARGUMENT, "page_size")
    assert items(await page(shop, method, 0))
    assert items(await page(shop, method, 2**31 - 1))


@every_list
@pytest.mark.parametrize("token", ["x", "AAAA", "e30", "é", "A" * 3000])
async def test_malformed_tokens(shop: Shop, method: MethodDescriptor, token: str) -> None:
    """Whatever is sent as a token, it is the caller's mistake."""
    await assert_token_refused(shop, method, token)


@every_list
async def test_tokens_of_other_lists(shop: Shop, method: MethodDescriptor, tokens: dict[str, str]) -> None:
    """A token goes on with the list that made it, and with no other."""
    for name, token in tokens.items():
        if name != method.full_name:
            await assert_token_refused(shop, method, token)


@every_list
async def test_forged_tokens(shop: Shop, method: MethodDescriptor, tokens: dict[str, str]) -> None:
    """Tokens are not signed: one with the right scope and a wrong position is refused, not followed into a crash."""
    genuine = tokens.get(method.full_name) or page_token_encode("nothing", ["x"])
    digest, *position = json.loads(base64.urlsafe_b64decode(genuine + "=" * (-len(genuine) % 4)))
    swapped = [1 if isinstance(part, str) else "x" for part in position]
    for forged in ([], swapped, [*position, "x"], [None], [{}], [[]], [-1], [2**64], [1.5], ["\0"] * len(position)):
        body = json.dumps([digest, *forged]).encode()
        await assert_token_refused(shop, method, base64.urlsafe_b64encode(body).decode().rstrip("="))


@every_list_of_a_project
async def test_tokens_of_other_projects(
    platform: PlatformUnderTest, shop: Shop, method: MethodDescriptor, tokens: dict[str, str]
) -> None:
    """A token says nothing about a project to another one."""
    other = await platform.new_project()
    request = list_request(shop, method, other.name)
    request.page_token = tokens[method.full_name]
    answer = await shop.ask(method, request)
    assert (answer.code, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


@every_watch
@pytest.mark.parametrize("token", ["x", "e30", "A" * 3000, page_token_encode("WatchUsage/other", [1])])
async def test_watches_refuse_what_they_did_not_give(shop: Shop, method: MethodDescriptor, token: str) -> None:
    """A watch goes on only where one of its own ended."""
    request = request_for(method, shop.project.name)
    request.resume_token = token
    answer = await shop.ask(method, request)
    assert (answer.code, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


@every_watch
async def test_watches_go_on_with_their_token(shop: Shop, method: MethodDescriptor) -> None:
    """The first response says where the watch begins; a watch that starts there is taken."""
    first = await shop.ask(method, request_for(method, shop.project.name))
    assert first.code is grpc.StatusCode.OK
    again = request_for(method, shop.project.name)
    again.resume_token = first.response.resume_token
    assert (await shop.ask(method, again)).code is grpc.StatusCode.OK


async def assert_token_refused(shop: Shop, method: MethodDescriptor, token: str) -> None:
    request = list_request(shop, method)
    request.page_token = token
    answer = await shop.ask(method, request)
    assert (answer.code, answer.reason, answer.field) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "PAGE_TOKEN_INVALID",
        "page_token",
    )
