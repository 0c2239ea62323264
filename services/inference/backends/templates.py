"""Prompts by templates that nobody here has looked at: rendered in processes apart, with bounds on time and memory."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from chassis.telemetry import get_logger
from services.inference.backends.template_process import LENGTH
from services.inference.domain.calls import Message
from services.inference.domain.errors import RequestInvalid, TemplatesBusy
from services.inference.domain.prompts import PROMPT_CHARACTERS_MAX

log = get_logger(__name__)

# How it shows that the other side is gone, or is no longer what was started.
_ENDED = (asyncio.IncompleteReadError, ConnectionError, msgspec.MsgspecError)
_ANSWER_BYTES_MAX = 4 * PROMPT_CHARACTERS_MAX + 1024
_CODE_FOLDER = Path(__file__).resolve().parents[3]
# A process imports what it needs meanwhile.
_START_S_MAX = 20.0
# Templates that are remembered to have broken their bounds.
_BROKEN_MAX = 1000


@dataclass(frozen=True)
class TemplateLimits:
    """Bounds of templates that are rendered apart.

    Attributes:
        processes_max: Prompts rendered at once; more wait.
        render_s_max: One prompt, and the wait for its turn, seconds.
        memory_bytes_max: Address space of one process.
        broken_s: How long a template that broke a bound is refused at once, seconds.
    """

    processes_max: int = 2
    render_s_max: float = 2.0
    memory_bytes_max: int = 512 << 20
    broken_s: float = 60.0


class TemplateProcesses:
    """Renders prompts; its processes start when the first one is wanted, and end with `close`."""

    def __init__(self, limits: TemplateLimits) -> None:
        self._limits = limits
        self._turns = asyncio.Semaphore(limits.processes_max)
        self._idle: list[asyncio.subprocess.Process] = []
        # Digest of a template to when it may be tried again.
        self._broken: dict[bytes, float] = {}

    async def render(self, template: str, messages: Sequence[Message], *, bos_token: str, eos_token: str) -> str:
        """The text the model was trained to answer.

        Raises:
            RequestInvalid: the template refuses the messages, or breaks its bounds.
            TemplatesBusy: others are rendered for too long.
        """
        digest = hashlib.sha256(template.encode()).digest()
        if self._broken.get(digest, 0.0) > time.monotonic():
            raise _broken_bounds(
                f"it broke its bounds a moment ago; it is tried again after {self._limits.broken_s:g} s"
            )
        request = msgspec.msgpack.encode(
            {
                "template": template,
                "messages": [(message.role, message.content) for message in messages],
                "bos_token": bos_token,
                "eos_token": eos_token,
            }
        )
        try:
            async with asyncio.timeout(self._limits.render_s_max):
                await self._turns.acquire()
        except TimeoutError:
            raise TemplatesBusy(
                f"{self._limits.processes_max} other templates are rendered, as many as may be at once; try again",
                retry_after_s=1.0,
            ) from None
        try:
            process = self._idle.pop() if self._idle else await self._start()
            answer = await self._ask(process, request, digest)
        finally:
            self._turns.release()
        if "refused" in answer:
            raise RequestInvalid(answer["refused"], field="messages")
        return answer["prompt"]

    async def close(self) -> None:
        """End the processes."""
        while self._idle:
            await _end(self._idle.pop())

    async def _start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "services.inference.backends.template_process",
            str(self._limits.memory_bytes_max),
            # Nothing of this process's environment: its settings are none of a template's business.
            env={"PATH": os.defpath, "PYTHONPATH": str(_CODE_FOLDER), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(_START_S_MAX):
                await _exchange(process, _NOTHING)
        except (TimeoutError, *_ENDED) as error:
            await _end(process)
            log.warning("a process for chat templates did not start", error=type(error).__name__)
            raise TemplatesBusy("no process to render the model's own chat template started; try again") from None
        except BaseException:
            await _end(process)
            raise
        return process

    async def _ask(self, process: asyncio.subprocess.Process, request: bytes, digest: bytes) -> dict[str, str]:
        """What the process answers; one that does not, or whose caller leaves meanwhile, is ended."""
        try:
            async with asyncio.timeout(self._limits.render_s_max):
                answer = await _exchange(process, request)
        except TimeoutError:
            await _end(process)
            self._remember(digest)
            raise _broken_bounds(f"it took longer than {self._limits.render_s_max:g} s") from None
        except _ENDED:
            await _end(process)
            self._remember(digest)
            raise _broken_bounds("it ended its process; it may have wanted more memory than it gets") from None
        except BaseException:
            await _end(process)
            raise
        self._idle.append(process)
        return answer

    def _remember(self, digest: bytes) -> None:
        log.warning("a chat template broke its bounds", template_sha256=digest.hex())
        while len(self._broken) >= _BROKEN_MAX:
            del self._broken[next(iter(self._broken))]
        self._broken[digest] = time.monotonic() + self._limits.broken_s


_NOTHING = msgspec.msgpack.encode({"template": "-", "messages": [], "bos_token": "", "eos_token": ""})
_decode = msgspec.msgpack.Decoder(dict[str, str]).decode


async def _exchange(process: asyncio.subprocess.Process, request: bytes) -> dict[str, str]:
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    process.stdin.write(LENGTH.pack(len(request)) + request)
    await process.stdin.drain()
    (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
    if length > _ANSWER_BYTES_MAX:
        raise ConnectionError
    return _decode(await process.stdout.readexactly(length))


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


def _broken_bounds(why: str) -> RequestInvalid:
    return RequestInvalid(f"the model's own chat template cannot be used: {why}; its owner can mend it", field="model")
