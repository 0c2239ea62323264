"""Two projects behind one base URL, with unmodified clients: each sees, calls and pays for its own only."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
import pytest_asyncio
from modelyard.billing.v1 import events_pb2
from nats.aio.client import Client
from openai import NotFoundError, OpenAI

from tests.infra.instances import wait_until
from tests.infra.up import Up

ROOT = Path(__file__).parents[2]
PROJECTS = ("acme", "umbrella")


@dataclass
class Tenant:
    """A project, its endpoint, and its two keys."""

    project: str
    uid: str
    keys: list[dict[str, Any]]

    def client(self, up: Up, key: int = 0) -> OpenAI:
        return OpenAI(base_url=f"{up.addresses['rest']}/v1", api_key=self.keys[key]["secret"], max_retries=0)


@pytest.fixture(scope="module")
def tenants(up: Up) -> dict[str, Tenant]:
    """Both have an endpoint of the same name on the same shared pool, and one of a name of its own."""
    made = {}
    for project in PROJECTS:
        uid = up.json("project", "create", project)["uid"]
        for endpoint in ("vectors", f"of-{project}"):
            up.run("deploy", "all-minilm-l6-v2", "-p", project, "--endpoint", endpoint, "--serverless")
        keys = [up.json("key", "create", "-p", project) for _ in range(2)]
        made[project] = Tenant(project, uid, keys)
    return made


def embed(client: OpenAI, model: str, text: str) -> int:
    answer = client.embeddings.create(model=model, input=text)
    return answer.usage.prompt_tokens


def test_each_lists_only_its_own(up: Up, tenants: dict[str, Tenant]) -> None:
    """/v1/models is exactly what the key may call."""
    for project, tenant in tenants.items():
        with tenant.client(up) as client:
            names = {model.id.partition("/")[0] for model in client.models.list()}
        assert names == {"vectors", f"of-{project}"}


def test_another_projects_endpoint_is_not_found(up: Up, tenants: dict[str, Tenant]) -> None:
    """It answers as one that does not exist."""
    messages = []
    with tenants["acme"].client(up) as client:
        for model in ("of-umbrella", "of-nobody99"):
            with pytest.raises(NotFoundError) as refused:
                embed(client, model, "x")
            messages.append(str(refused.value).replace(model, "MODEL"))
    assert messages[0] == messages[1]


async def test_the_bill_splits_by_project_and_key(up: Up, tenants: dict[str, Tenant]) -> None:
    """Every key has its own lines, with the tokens its client saw."""
    seen: dict[tuple[str, str], int] = {}
    for project, tenant in tenants.items():
        for number, key in enumerate(tenant.keys):
            with tenant.client(up, number) as client:
                tokens = sum(embed(client, "vectors", f"text {n} of {project}") for n in range(number + 1))
            seen[project, key["api_key"]["id"]] = tokens
    billed: dict[tuple[str, str], int] = {}
    async with asyncio.timeout(30):
        while billed != seen:
            billed = {
                (project, line["key_id"]): int(line["quantity"])
                for project in PROJECTS
                for line in (await asyncio.to_thread(up.json, "bill", "-p", project))["lines"]
            }


@dataclass
class Subscriber:
    """A dashboard's connection, and what the server refused it."""

    client: Client
    refused: list[str]

    async def is_refused(self, what: str) -> bool:
        """Whether the server said no to something that names `what`; errors come on their own time."""
        await self.client.flush()
        await wait_until(lambda: any(what.lower() in error.lower() for error in self.refused), timeout_s=5)
        return True


@pytest_asyncio.fixture
async def subscriber(up: Up, tenants: dict[str, Tenant], tmp_path: Path) -> AsyncIterator[Subscriber]:
    """The credential that `modelyard subscriber create` makes for acme."""
    made = up.json("subscriber", "create", "-p", "acme", "--output", str(tmp_path / "acme.creds"))
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error))

    client = await nats.connect(made["nats"], user_credentials=made["file"], error_cb=note)
    yield Subscriber(client, refused)
    await client.close()


async def test_a_subscriber_hears_its_projects_usage(
    up: Up, tenants: dict[str, Tenant], subscriber: Subscriber
) -> None:
    """A call's record arrives as it is posted."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def put(message: Any) -> None:
        await heard.put(message.data)

    acme = tenants["acme"]
    await subscriber.client.subscribe(f"modelyard.billing.v1.usage.posted.{acme.uid}", cb=put)
    await subscriber.client.flush()
    with acme.client(up) as client:
        await asyncio.to_thread(embed, client, "vectors", "to be heard")
    async with asyncio.timeout(15):
        posted = events_pb2.UsagePosted.FromString(await heard.get())
    assert {one.record.project_uid for one in posted.usage} == {acme.uid}


async def test_the_documented_dashboard_prints_usage(up: Up, tenants: dict[str, Tenant], tmp_path: Path) -> None:
    """The command that `subscriber create` prints, as it prints it."""
    said = up.run("subscriber", "create", "-p", "acme", "--output", str(tmp_path / "dashboard.creds")).stdout
    script, *arguments = said.partition("python ")[2].split()
    dashboard = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", str(ROOT / script), *arguments),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert dashboard.stdout is not None
        async with asyncio.timeout(20):
            reading = asyncio.ensure_future(dashboard.stdout.readline())
            with tenants["acme"].client(up) as client:
                # It may still be connecting: what was posted before that is not its to hear.
                while not reading.done():
                    await asyncio.to_thread(embed, client, "vectors", "to be printed")
                    await asyncio.wait({reading}, timeout=0.5)
        assert b"all-minilm-l6-v2" in await reading
        assert b"input_tokens" in await reading
    finally:
        dashboard.kill()
        await dashboard.wait()


@pytest.mark.parametrize("subject", [">", "modelyard.>", "modelyard.billing.v1.usage.posted.{other}"])
async def test_a_subscriber_is_refused_everything_else(
    tenants: dict[str, Tenant], subscriber: Subscriber, subject: str
) -> None:
    """Neither the whole, nor another project's subjects."""
    wanted = subject.format(other=tenants["umbrella"].uid)
    await subscriber.client.subscribe(wanted)
    assert await subscriber.is_refused(wanted)


@pytest.mark.parametrize(
    "subject",
    ["$JS.API.STREAM.INFO.BILLING", "$JS.API.CONSUMER.CREATE.BILLING.x", "modelyard.billing.v1.usage.posted.{own}"],
)
async def test_a_subscriber_reaches_no_stream_and_publishes_nothing(
    tenants: dict[str, Tenant], subscriber: Subscriber, subject: str
) -> None:
    """Streams, consumers, and even its own project's subject are closed to writing."""
    wanted = subject.format(own=tenants["acme"].uid)
    await subscriber.client.publish(wanted, json.dumps({}).encode())
    assert await subscriber.is_refused(wanted)


def test_a_member_of_one_project_reads_no_other(up: Up, tenants: dict[str, Tenant], tmp_path: Path) -> None:
    """A reader's token opens its own project's bill, and not its neighbour's."""
    token = tmp_path / "reader.token"
    up.run("token", "create", "reader@acme", "--output", str(token))
    up.run("member", "add", "reader@acme", "--role", "billing-reader", "-p", "acme")
    up.run("bill", "-p", "acme", MODELYARD_CREDENTIAL_FILE=str(token))
    refused = up.run("bill", "-p", "umbrella", status=1, MODELYARD_CREDENTIAL_FILE=str(token))
    assert "PERMISSION_DENIED" in refused.stderr


def test_a_revoked_key_stops(up: Up, tenants: dict[str, Tenant]) -> None:
    """Within a second of `key revoke`, the key answers 401; the other key works on."""
    made = up.json("key", "create", "-p", "acme")
    up.run("embed", "vectors", "before", MODELYARD_KEY=made["secret"])
    up.run("key", "revoke", made["api_key"]["id"], "-p", "acme")
    refused = up.run("embed", "vectors", "after", status=1, MODELYARD_KEY=made["secret"])
    assert "KEY_INVALID" in refused.stderr
    up.run("embed", "vectors", "after", MODELYARD_KEY=tenants["acme"].keys[0]["secret"])


def test_an_endpoints_keys_rotate_one_at_a_time(up: Up, tenants: dict[str, Tenant]) -> None:
    """A new primary key stops the old primary one and leaves the secondary one alone."""
    primary, secondary = (
        up.json("key", "rotate", "of-acme", which, "-p", "acme")["secret"] for which in ("primary", "secondary")
    )
    renewed = up.json("key", "rotate", "of-acme", "primary", "-p", "acme")["secret"]
    up.run("embed", "of-acme", "old primary", status=1, MODELYARD_KEY=primary)
    for key in (secondary, renewed):
        up.run("embed", "of-acme", "x", MODELYARD_KEY=key)
    refused = up.run("embed", "vectors", "not its endpoint", status=1, MODELYARD_KEY=secondary)
    assert "MODEL_NOT_CALLABLE" in refused.stderr
