"""A load client in a process of its own: it shares no event loop with what it measures.

Run as a program it reads a `Load` as JSON from standard input and writes a `Measured` as JSON to standard output.
The client is `tritonclient`, unmodified, whichever side it calls.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Any

import numpy as np
import uvloop
from tritonclient.grpc import aio as triton

CALL_S_MAX = 30.0


@dataclass(frozen=True)
class Load:
    """What to call, and how hard.

    Attributes:
        model: As the called side names it.
        responses: Responses of one streamed call; 0 calls without a stream.
        rate_per_s: Calls begun a second, whatever is still running; 0 keeps `concurrency` calls running.
        calls: End after as many calls; 0 ends after `duration_s`.
        noted: Whether to say when each call ended, by its request id.
        ids: Request ids begin with it.
    """

    address: str
    model: str
    headers: dict[str, str]
    concurrency: int = 1
    duration_s: float = 3.0
    warmup_s: float = 0.5
    responses: int = 0
    rate_per_s: float = 0.0
    calls: int = 0
    noted: bool = False
    ids: str = "bench"


@dataclass
class Measured:
    """What came of it, the warm-up left out.

    Attributes:
        count: Responses.
        calls: Those of the warm-up, too.
        latencies_s: Of whole calls, ascending.
        ended_at: Request id to the monotonic time of the last response byte; that clock is one for all processes.
    """

    count: int = 0
    calls: int = 0
    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    ended_at: dict[str, float] = field(default_factory=dict)

    @property
    def per_s(self) -> float:
        return self.count / self.seconds

    def latency_ms(self, quantile: float) -> float:
        """Of whole calls."""
        return self.latencies_s[min(len(self.latencies_s) - 1, int(len(self.latencies_s) * quantile))] * 1e3


class LoadFailed(Exception):
    """A call was not answered: what was measured means nothing."""


async def run_load(load: Load) -> Measured:
    """Start a client, wait for its end.

    Raises:
        LoadFailed: with what the client said.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.load"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await process.communicate(json.dumps(asdict(load)).encode())
    if process.returncode != 0:
        raise LoadFailed(complained.decode()[-2000:])
    return Measured(**json.loads(said))


class _Client:
    def __init__(self, load: Load, client: triton.InferenceServerClient) -> None:
        self._load = load
        self._client = client
        content = str(load.responses) if load.responses else "a dozen bytes"
        self._input = triton.InferInput("INPUT", [1], "BYTES")
        self._input.set_data_from_numpy(np.array([content.encode()], dtype=np.object_))
        self._count_from = monotonic() + load.warmup_s
        self._number = 0
        self.measured = Measured()

    async def run(self) -> None:
        load = self._load
        give_up_at = self._count_from + load.duration_s

        def more() -> bool:
            return self._number < load.calls if load.calls else monotonic() < give_up_at

        if load.rate_per_s:
            await self._at_rate(more)
        else:
            await asyncio.gather(*(self._one_after_the_other(more) for _ in range(load.concurrency)))
        self.measured.calls = self._number
        self.measured.seconds = monotonic() - self._count_from
        self.measured.latencies_s.sort()

    async def _one_after_the_other(self, more: Callable[[], bool]) -> None:
        while more():
            await self._call()

    async def _at_rate(self, more: Callable[[], bool]) -> None:
        began_at = monotonic()
        async with asyncio.TaskGroup() as group:
            while more():
                group.create_task(self._call())
                await asyncio.sleep(began_at + self._number / self._load.rate_per_s - monotonic())

    async def _call(self) -> None:
        self._number += 1
        request_id = f"{self._load.ids}-{self._number}"
        call: Callable[[dict[str, str]], Awaitable[int]] = self._stream if self._load.responses else self._infer
        headers = {**self._load.headers, "x-request-id": request_id} if self._load.noted else self._load.headers
        began_at = monotonic()
        count = await call(headers)
        ended_at = monotonic()
        if began_at >= self._count_from:
            self.measured.count += count
            self.measured.latencies_s.append(ended_at - began_at)
            if self._load.noted:
                self.measured.ended_at[request_id] = ended_at

    async def _infer(self, headers: dict[str, str]) -> int:
        await self._client.infer(self._load.model, [self._input], headers=headers, client_timeout=CALL_S_MAX)
        return 1

    async def _stream(self, headers: dict[str, str]) -> int:
        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": self._load.model, "inputs": [self._input]}

        count = 0
        async for _, error in self._client.stream_infer(requests(), stream_timeout=CALL_S_MAX, headers=headers):
            if error is not None:
                raise LoadFailed(str(error))
            count += 1
        if count != self._load.responses:
            raise LoadFailed(f"{count} responses of {self._load.responses}")
        return count


async def _main() -> None:
    load = Load(**json.loads(sys.stdin.read()))
    async with triton.InferenceServerClient(load.address) as client:
        running = _Client(load, client)
        await running.run()
    sys.stdout.write(json.dumps(asdict(running.measured)))


if __name__ == "__main__":
    uvloop.run(_main())
