"""Chat templates that nobody here has looked at: whatever they do, others go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.inference.backends.templates import TemplateLimits, TemplateProcesses
from services.inference.domain.calls import Message
from services.inference.domain.errors import RequestInvalid, TemplatesBusy
from services.inference.domain.prompts import render_prompt

HELLO = [Message("system", "Be brief."), Message("user", "Hello ☺")]
ORDINARY = (
    "{% for message in messages %}{{ bos_token }}{{ message['role'] }}: {{ message['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
REFUSING = "{{ raise_exception('no system role') }}"
# 10^10 turns; each range alone is as long as the sandbox allows.
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
# More than the process may have.
LARGE = "{{ ('x' * 2000000000) | length }}"
LIMITS = TemplateLimits(processes_max=1, render_s_max=0.5, broken_s=30.0)


@pytest_asyncio.fixture
async def templates() -> AsyncIterator[TemplateProcesses]:
    processes = TemplateProcesses(LIMITS)
    yield processes
    await processes.close()


async def rendered(templates: TemplateProcesses, template: str) -> str:
    return await templates.render(template, HELLO, bos_token="<s>", eos_token="</s>")


async def test_it_is_the_same_prompt(templates: TemplateProcesses) -> None:
    """As one that is rendered in the service's own process, time after time."""
    wanted = render_prompt(ORDINARY, HELLO, bos_token="<s>", eos_token="</s>")
    assert [await rendered(templates, ORDINARY) for _ in range(3)] == [wanted] * 3


@pytest.mark.parametrize("template", [REFUSING, LARGE, "{% broken"])
async def test_one_that_fails_refuses_the_messages(templates: TemplateProcesses, template: str) -> None:
    """And its process goes on."""
    with pytest.raises(RequestInvalid, match="does not take these messages"):
        await rendered(templates, template)
    assert (await rendered(templates, ORDINARY)).endswith("assistant:")


async def test_one_without_an_end_is_ended(templates: TemplateProcesses) -> None:
    """At its bound; then it is refused at once for a while, and others are rendered."""
    await rendered(templates, ORDINARY)
    with pytest.raises(RequestInvalid, match=r"longer than 0\.5 s"):
        await rendered(templates, ENDLESS)
    assert (await rendered(templates, ORDINARY)).endswith("assistant:")
    with pytest.raises(RequestInvalid, match="a moment ago"):
        await rendered(templates, ENDLESS)


async def test_a_caller_who_leaves_takes_nothing_along(templates: TemplateProcesses) -> None:
    """The next one does not get that one's answer."""
    await rendered(templates, ORDINARY)
    left = asyncio.create_task(rendered(templates, ENDLESS))
    await asyncio.sleep(0.1)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    assert left.cancelled()
    assert (await rendered(templates, ORDINARY)).endswith("assistant:")


async def test_more_than_are_rendered_at_once_wait_for_so_long(templates: TemplateProcesses) -> None:
    """As long as a prompt may take; the third of three that take as long comes too late."""
    await rendered(templates, ORDINARY)
    slow = (rendered(templates, f"{number}{ENDLESS}") for number in range(3))
    first, _, third = await asyncio.gather(*slow, return_exceptions=True)
    assert isinstance(first, RequestInvalid)
    assert isinstance(third, TemplatesBusy)
    assert (await rendered(templates, ORDINARY)).endswith("assistant:")
