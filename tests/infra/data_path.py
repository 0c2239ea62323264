"""Inference as a process of its own, over the real broker and real instances; routes and keys as deploy writes them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from modelyard.catalog.v1 import catalog_pb2
from modelyard.deploy.v1 import routes_pb2
from modelyard.type.v1 import money_pb2, usage_pb2

from chassis.bus import Bus
from chassis.events import encode_projection
from chassis.ids import new_uid
from engines.token_log import read_token_log
from services.deploy.compute.interface import InstanceView
from services.deploy.domain.keys import make_key
from tests.infra.broker import Broker
from tests.infra.instances import CLUSTER_SECRET, wait_until
from tests.infra.journal import frames

ROOT = Path(__file__).parents[2]
READY_S_MAX = 30.0
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
DIMENSIONS = 384


@dataclass(frozen=True)
class Billed:
    """One usage record as the journal holds it."""

    record: usage_pb2.UsageRecord

    @property
    def outcome(self) -> str:
        return usage_pb2.Outcome.Name(self.record.outcome).removeprefix("OUTCOME_")

    def tokens(self) -> tuple[int, int]:
        """(input, output)"""
        return self.amount(money_pb2.METER_INPUT_TOKENS), self.amount(money_pb2.METER_OUTPUT_TOKENS)

    def amount(self, meter: money_pb2.Meter.ValueType) -> int:
        """What was counted of one meter; 0 where it was not."""
        return next((one.value for one in self.record.quantities if one.meter == meter), 0)


@dataclass(frozen=True)
class HttpAnswer:
    """One answer as it came; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class DataPath:
    """The process, and what a test needs around it.

    `rest` is the base URL, `grpc` is `host:port`; `log` is everything it wrote to standard error, across restarts.
    """

    def __init__(self, broker: Broker, folder: Path, **settings: object) -> None:
        self._broker = broker
        self._folder = folder
        self._settings = settings
        self._deploy: Bus | None = None
        self._sequence = 0
        self._process: asyncio.subprocess.Process | None = None
        self.journal_dir = folder / "journal"
        self.log_file = folder / "inference.log"
        self.rest = self.grpc = ""
        self.project_uid = new_uid()

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    async def start(self) -> None:
        """Start, or start again in the same folder, and wait until it answers."""
        if self._deploy is None:
            self._deploy = await Bus.connect(self._broker.url, self._broker.credentials["deploy"], "deploy")
        ready_file, secret_file, token_file = (
            self._folder / name for name in ("ready.json", "cluster.secret", "service.token")
        )
        ready_file.unlink(missing_ok=True)
        secret_file.write_bytes(CLUSTER_SECRET)
        token_file.write_text("a token for services that are away")
        settings = {
            "data_dir": self._folder,
            "cluster_secret_file": secret_file,
            "nats_url": self._broker.url,
            "nats_credential_file": self._broker.credentials["inference"],
            "service_token_file": token_file,
            "ready_file": ready_file,
            "catalog_address": "127.0.0.1:1",
            "billing_address": "127.0.0.1:1",
            "log_level": "debug",
            **self._settings,
        }
        environment = {f"MODELYARD_INFERENCE_{name.upper()}": str(value) for name, value in settings.items()}
        with self.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.inference", cwd=ROOT, env={**os.environ, **environment}, stderr=log
            )
        deadline_s = time.monotonic() + READY_S_MAX
        while not ready_file.exists():
            if self._process.returncode is not None or time.monotonic() > deadline_s:
                raise TimeoutError(f"inference does not answer; its log ends with\n{self.log[-2000:]}")
            await asyncio.sleep(0.02)
        said = json.loads(ready_file.read_text())
        self.rest, self.grpc = said["rest"], said["grpc"]

    async def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it, and wait; the exit status."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(how)
        try:
            return await asyncio.wait_for(self._process.wait(), 20)
        except TimeoutError:
            self._process.kill()
            raise

    async def close(self) -> None:
        await self.end()
        if self._deploy is not None:
            await self._deploy.close()

    async def put_key(self, **changes: Any) -> str:
        """A key of the project; its credential."""
        made = make_key(os.urandom(40))
        key = routes_pb2.KeyAccess(
            **{"key_id": made.id, "secret_sha256": made.sha256, "project_uid": self.project_uid, **changes}
        )
        await self._put("access", made.id, key)
        return made.credential

    async def revoke(self, credential: str) -> None:
        key_id = credential.split("_")[1]
        await self._put("access", key_id, routes_pb2.KeyAccess(key_id=key_id, revoked=True))

    async def put_route(
        self, endpoint: str, *deployments: routes_pb2.RouteDeployment, serverless: bool = True, **changes: Any
    ) -> routes_pb2.Route:
        """An endpoint of the project, once calls find it."""
        uid = new_uid()
        route = routes_pb2.Route(
            **{
                "endpoint_uid": uid,
                "endpoint": endpoint,
                "project_uid": self.project_uid,
                "project": "data-path",
                "serverless": serverless,
                "deployments": deployments,
                **changes,
            }
        )
        route.create_time.FromSeconds(1_700_000_000)
        await self._put("routes", uid, route)
        await self._found(route)
        return route

    async def _found(self, route: routes_pb2.Route) -> None:
        """Wait until a key of its project is shown its deployments."""
        key = await self.put_key(project_uid=route.project_uid)
        wanted = {f"{route.endpoint}/{one.deployment}" for one in route.deployments}

        async def are_listed() -> bool:
            models = (await self.send("GET", "/v1/models", key=key)).json()["data"]
            return wanted <= {model["id"] for model in models}

        await wait_until(are_listed, timeout_s=READY_S_MAX)

    async def _put(self, bucket: str, key: str, value: Message) -> None:
        assert self._deploy is not None
        self._sequence += 1
        await self._deploy.put_projection(bucket, key, encode_projection(self._sequence, value.SerializeToString()))

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A bare connection to the REST face."""
        host, _, port = self.rest.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def send(
        self, method: str, path: str, body: bytes = b"", *, key: str = "", headers: Mapping[str, str] | None = None
    ) -> HttpAnswer:
        """One request, just as it is given, on a connection of its own."""
        sent = {"host": "x", "connection": "close", "content-length": str(len(body)), **(headers or {})}
        if key:
            sent["authorization"] = f"Bearer {key}"
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items() if value)]
        async with self.connected() as (reader, writer):
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            return await read_answer(reader)

    def records(self) -> list[Billed]:
        """Settled calls on disk, oldest first."""
        return [Billed(frame.settled) for frame in frames(self.journal_dir) if frame.WhichOneof("step") == "settled"]

    async def opened(self, request_id: str) -> None:
        """Wait until a call is admitted and its opening is on disk."""

        await wait_until(lambda: any(frame.opened.request_id == request_id for frame in frames(self.journal_dir)))

    def has_progress(self, request_id: str) -> bool:
        """Whether tokens of an open call are on disk: from then on a crash costs less than all of its bill."""
        found = frames(self.journal_dir)
        of_call = {frame.opened.journal_seq for frame in found if frame.opened.request_id == request_id}
        return any(frame.progress.output_tokens and frame.progress.journal_seq in of_call for frame in found)

    async def billed(self, request_id: str) -> Billed:
        """The one record of a request, by the id the client sent, once it is on disk."""
        found: list[Billed] = []

        def settled() -> bool:
            found[:] = [one for one in self.records() if one.record.request_id == request_id]
            return bool(found)

        await wait_until(settled)
        assert len(found) == 1, f"{len(found)} records of {request_id}"
        return found[0]


async def read_answer(reader: asyncio.StreamReader) -> HttpAnswer:
    """An answer with a declared length, or one to HEAD."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    try:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except asyncio.IncompleteReadError as end:
        body = end.partial
    return HttpAnswer(int(head[0].split()[1]), headers, body)


def a_deployment(name: str, view: InstanceView | None, task: int, weight: int = 100, **changes: Any) -> Any:
    """A deployment on one instance, or on none."""
    target = routes_pb2.RouteTarget(
        instance_uid=view.instance_uid if view else "", address=view.address if view else "", model_name="model"
    )
    return routes_pb2.RouteDeployment(
        **{
            "uid": new_uid(),
            "deployment": name,
            "weight": weight,
            "model_version": "publishers/p/models/m/versions/1",
            "tasks": [task],
            "serving": catalog_pb2.Serving(chat_template=CHAT_TEMPLATE, embedding_dimensions=DIMENSIONS),
            "price_version": "2026-01",
            "targets": [target] if view else [],
            **changes,
        }
    )


async def token_log_line(view: InstanceView, record_id: str) -> dict[str, Any]:
    """What the engine itself wrote of a call, once it has ended there."""
    path = Path(view.handle["folder"]) / "tokens.jsonl"
    found: list[dict[str, Any]] = []

    def ended() -> bool:
        found[:] = [line for line in read_token_log(path) if line["request_id"] == record_id]
        return bool(found)

    await wait_until(ended)
    return found[0]


@asynccontextmanager
async def running_data_path(broker: Broker, folder: Path, **settings: object) -> AsyncIterator[DataPath]:
    """Inference for the length of the block."""
    data_path = DataPath(broker, folder, **settings)
    await data_path.start()
    try:
        yield data_path
    finally:
        await data_path.close()
