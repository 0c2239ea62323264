"""The seven steps."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from modelyard.billing.v1 import billing_pb2
from modelyard.catalog.v1 import catalog_pb2
from modelyard.deploy.v1 import deploy_pb2
from modelyard.type.v1 import money_pb2
from modelyard_client import Modelyard, watch_deployment, watch_usage
from openai import AsyncOpenAI

from cli.commands.billing import explain_line, print_bill, print_explained, usage_of
from cli.commands.card import print_card, read_card
from cli.commands.deployments import create_deployment, wait_active, wait_scaled
from cli.commands.discover import find_model, print_collections, print_models
from cli.commands.prices import print_quote, take_quote
from cli.demo.calls import ask_chat, embed, raw_tensors, stream_chat, stream_chat_grpc
from cli.demo.client_log import ClientLog
from cli.demo.witnesses import InstanceLife, compare, differences, keeper_lives
from cli.output import err, out, table
from cli.session import collect

TEXT_MODEL = "smollm2-135m-instruct"
EMBEDDING_MODEL = "all-minilm-l6-v2"
INSTANCE_TYPE = "local-1"
CHAT, VECTORS, MANAGED, DEPLOYMENT = "chat", "vectors", "managed", "blue"
QUESTION = "What is gravity? Answer in one sentence."
CONCURRENT_CALLS = 64
ANSWERS_PER_INSTANCE_MIN = 16
LEDGER_S_MAX = 60.0
STEPS = 7


class DemoFailed(Exception):
    """A step did not give what it must."""


@dataclass
class Demo:
    """What the steps hand on to each other."""

    modelyard: Modelyard
    project: str
    instances_dir: Path
    began: float = field(default_factory=time.monotonic)
    key: str = ""
    log: ClientLog = field(default_factory=ClientLog)
    quotes: dict[str, billing_pb2.Quote] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    # Immutable ids of the managed instances, as the client saw them in the deployment.
    instance_uids: set[str] = field(default_factory=set)
    posted: dict[str, billing_pb2.PostedUsage] = field(default_factory=dict)
    posted_changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def parent(self) -> str:
        return f"projects/{self.project}"

    @asynccontextmanager
    async def step(self, number: int, what: str) -> AsyncIterator[None]:
        """Announce a step and say how long it took."""
        out.rule(f"[bold]{number} of {STEPS}[/]  {what}  [dim]{time.monotonic() - self.began:.1f} s[/]", align="left")
        began = time.monotonic()
        yield
        out.print(f"[green]step {number} done[/] in {time.monotonic() - began:.1f} s\n")

    def openai(self) -> AsyncOpenAI:
        """The unmodified client, with the one key and the one base URL."""
        return AsyncOpenAI(base_url=f"{self.modelyard.addresses.rest}/v1", api_key=self.key, max_retries=0, timeout=180)


async def run_demo(modelyard: Modelyard, instances_dir: Path, *, project: str = "demo") -> None:
    """Run all steps in a project of their own.

    Args:
        instances_dir: Where the keepers write.
        project: Id of the project to make.

    Raises:
        DemoFailed: naming what was missing or different.
    """
    demo = Demo(modelyard, project, instances_dir)
    async with demo.step(1, "Discover: collections and models"):
        await discover(demo)
    async with demo.step(2, "A model card, its licence, its prices, and two quotes"):
        await quote(demo)
    watching = asyncio.create_task(_watch_ledger(demo))
    try:
        async with demo.step(3, "Deploy one language model both ways, and an embedding model"):
            await deploy(demo)
        async with demo.step(4, "Call them: REST, gRPC, embeddings, raw tensors"):
            await call(demo)
        async with demo.step(5, f"Scale 1 → 2, {CONCURRENT_CALLS} calls at once, delete"):
            await scale(demo)
        async with demo.step(6, "The bill, and one line down to its events"):
            bill = await show_bill(demo)
        async with demo.step(7, "Proof from three witnesses"):
            await prove(demo, bill)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    out.print(f"[bold green]All {STEPS} steps succeeded[/] in {time.monotonic() - demo.began:.1f} s.")


async def discover(demo: Demo) -> None:
    """Step 1."""
    catalog = demo.modelyard.catalog
    print_collections(await collect(catalog.ListCollections, catalog_pb2.ListCollectionsRequest(), "collections"))
    models = await collect(catalog.ListModels, catalog_pb2.ListModelsRequest(parent="publishers/-"), "models")
    here = [model for model in models if model.usability == catalog_pb2.USABILITY_RUNS_HERE]
    print_models(here)
    out.print(f"[dim]and {len(models) - len(here)} more to discover and compare: `modelyard models`[/]")


async def quote(demo: Demo) -> None:
    """Step 2."""
    modelyard = demo.modelyard
    model = await find_model(modelyard, TEXT_MODEL, catalog_pb2.TEXT_FORMAT_TERMINAL)
    print_card(await read_card(modelyard, model))
    licence = model.license.text.strip().splitlines()
    out.print(f"[bold]Licence {model.license.id}[/], {len(licence)} lines, beginning:")
    out.print("\n".join(line.strip() for line in licence[:2]), style="dim")
    await modelyard.projects.CreateProject(deploy_pb2.CreateProjectRequest(project_id=demo.project))
    demo.versions = {
        TEXT_MODEL: model.latest_version,
        EMBEDDING_MODEL: (await find_model(modelyard, EMBEDDING_MODEL)).latest_version,
    }
    for name, asked in (
        (CHAT, {"model": demo.versions[TEXT_MODEL]}),
        (VECTORS, {"model": demo.versions[EMBEDDING_MODEL]}),
        (MANAGED, {"instance_type": INSTANCE_TYPE}),
    ):
        demo.quotes[name] = await take_quote(modelyard, demo.project, **asked)
        out.print()
        print_quote(demo.quotes[name])


async def deploy(demo: Demo) -> None:
    """Step 3."""
    made = await demo.modelyard.projects.CreateApiKey(deploy_pb2.CreateApiKeyRequest(parent=demo.parent))
    demo.key = made.secret
    created = [
        await create_deployment(
            demo.modelyard, demo.parent, endpoint, DEPLOYMENT, demo.versions[model], demo.quotes[endpoint], count=count
        )
        for endpoint, model, count in ((CHAT, TEXT_MODEL, 0), (VECTORS, EMBEDDING_MODEL, 0), (MANAGED, TEXT_MODEL, 1))
    ]
    await asyncio.gather(*(wait_active(demo.modelyard, deployment) for deployment in created))
    await _note_instances(demo)


async def call(demo: Demo) -> None:
    """Step 4."""

    def show(text: str) -> None:
        print(text, end="", flush=True)

    client = demo.openai()
    async with client, Modelyard(demo.modelyard.addresses, "", key=demo.key) as keyed:
        models = [model.id async for model in await client.models.list()]
        out.print(f"GET /v1/models with the key: {', '.join(models)}")
        for endpoint, serverless in ((CHAT, True), (MANAGED, False)):
            noted = demo.log.begin(endpoint, serverless=serverless)
            out.print(f"[bold]openai, streamed, {endpoint}:[/] ", end="")
            await stream_chat(client, noted, QUESTION, 48, show)
            _said(noted.input_tokens, noted.output_tokens)
        noted = demo.log.begin(CHAT, serverless=True)
        out.print("[bold]gRPC, streamed, chat:[/] ", end="")
        await stream_chat_grpc(keyed, noted, QUESTION, 48, show)
        _said(noted.input_tokens, noted.output_tokens)
        noted = demo.log.begin(VECTORS, serverless=True)
        vectors = await embed(client, noted, ["gravity pulls", "apples fall", "tax law"])
        near, far = (sum(a * b for a, b in zip(vectors[0], vectors[other], strict=True)) for other in (1, 2))
        out.print(
            f"[bold]openai, embeddings:[/] {len(vectors)} vectors of {len(vectors[0])} values; 'gravity pulls' is nearer "
            f"to 'apples fall' ({near:.2f}) than to 'tax law' ({far:.2f}); {noted.input_tokens} tokens in"
        )
        noted = demo.log.begin(MANAGED, serverless=False)
        raw = await asyncio.to_thread(raw_tensors, demo.modelyard.addresses.inference, demo.key, noted, 24)
        out.print(f"[bold]tritonclient, raw tensors, managed:[/] {raw.responses} responses: {raw.text.strip()!r}")
        _said(noted.input_tokens, noted.output_tokens)


async def scale(demo: Demo) -> None:
    """Step 5."""
    name = f"{demo.parent}/endpoints/{MANAGED}/deployments/{DEPLOYMENT}"
    await demo.modelyard.deploy.ScaleDeployment(deploy_pb2.ScaleDeploymentRequest(name=name, instance_count=2))
    await wait_scaled(demo.modelyard, name, 2)
    await _note_instances(demo)
    await _until_routed(demo, 2)
    noted = [demo.log.begin(MANAGED, serverless=False) for _ in range(CONCURRENT_CALLS)]
    with err.status(f"{CONCURRENT_CALLS} calls at once") as shown:
        async with demo.openai() as client:
            asking = [
                asyncio.create_task(ask_chat(client, one, f"Count to {n + 1}.", 8)) for n, one in enumerate(noted)
            ]
            for answered, one in enumerate(asyncio.as_completed(asking), start=1):
                await one
                shown.update(f"{answered} of {CONCURRENT_CALLS} calls answered")
    by_instance = demo.log.answers_by_instance(noted)
    table("", ("instance", "answers"), sorted(by_instance.items()), right=("answers",))
    if len(by_instance) != 2 or min(by_instance.values()) < ANSWERS_PER_INSTANCE_MIN:
        raise DemoFailed(
            f"of {CONCURRENT_CALLS} calls the instances answered {dict(by_instance)}; each must answer at least "
            f"{ANSWERS_PER_INSTANCE_MIN}"
        )
    await demo.modelyard.deploy.DeleteDeployment(deploy_pb2.DeleteDeploymentRequest(name=name, force=True))
    async for seen in watch_deployment(demo.modelyard, name):
        if seen.state == deploy_pb2.DEPLOYMENT_STATE_DELETED:
            break
    out.print(f"{MANAGED}/{DEPLOYMENT} is deleted; its instances have ended")


async def show_bill(demo: Demo) -> billing_pb2.Bill:
    """Step 6, when the ledger has heard of every call and of the end of every instance."""
    with err.status("waiting for the ledger"):
        bill = await _complete_bill(demo)
    print_bill(bill)
    line = next(one for one in bill.lines if one.rate.meter == money_pb2.METER_OUTPUT_TOKENS)
    out.print()
    print_explained(*await explain_line(demo.modelyard, demo.parent, "", line.id))
    return bill


async def prove(demo: Demo, bill: billing_pb2.Bill) -> None:
    """Step 7.

    Raises:
        DemoFailed: after listing every difference.
    """
    calls = demo.log.calls
    lives = keeper_lives(demo.instances_dir, demo.instance_uids)
    records = await usage_of(demo.modelyard, demo.parent)
    _print_lives(lives)
    compared = compare(calls, lives, records, bill)
    table(
        "",
        ("fact", "first witness", "says", "ledger", "says", ""),
        (
            (
                one.fact,
                one.first,
                f"{one.first_value:,}",
                one.second,
                f"{one.second_value:,}",
                "[green]equal[/]" if one.agrees else "[bold red]different[/]",
            )
            for one in compared
        ),
        right=("says",),
    )
    reconciled = await demo.modelyard.billing.Reconcile(billing_pb2.ReconcileRequest(parent=demo.parent))
    found = differences(calls, lives, records)
    found += [f"{call.request_id} to {call.endpoint} was not answered" for call in calls if not call.answered]
    found += [
        f"{one.fact}: {one.first} says {one.first_value}, {one.second} says {one.second_value}"
        for one in compared
        if not one.agrees
    ]
    found += [f"ledger: {one.kind}: {one.detail}" for one in reconciled.differences]
    if found:
        table("Differences", ("difference",), ((one,) for one in found))
        raise DemoFailed(f"the witnesses differ in {len(found)} points")
    out.print(
        f"{len(records)} calls, each with exactly one usage record; the bill of {bill.total} {bill.currency} is what "
        "the client and the keepers saw."
    )


async def _watch_ledger(demo: Demo) -> None:
    """Note usage as it is posted."""
    async for response in watch_usage(demo.modelyard, demo.parent):
        for posted in response.usage:
            demo.posted[posted.record.request_id] = posted
        demo.posted_changed.set()


async def _complete_bill(demo: Demo) -> billing_pb2.Bill:
    """The bill once every answered call is posted and every instance's end is known.

    When that takes too long the bill is shown as it is: the proof then lists what is missing.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LEDGER_S_MAX):
            while not {call.request_id for call in demo.log.answered} <= set(demo.posted):
                demo.posted_changed.clear()
                await demo.posted_changed.wait()
            while True:
                if await _ended_instances(demo) == demo.instance_uids:
                    break
                await asyncio.sleep(0.1)
    return await _bill(demo)


async def _bill(demo: Demo) -> billing_pb2.Bill:
    bill: billing_pb2.Bill = await demo.modelyard.billing.GetBill(billing_pb2.GetBillRequest(parent=demo.parent))
    return bill


async def _ended_instances(demo: Demo) -> set[str]:
    """Instances whose whole life the ledger holds."""
    events = [
        event
        for line in (await _bill(demo)).lines
        if line.rate.meter == money_pb2.METER_CORE_MILLISECONDS
        for event in (await explain_line(demo.modelyard, demo.parent, "", line.id))[1]
    ]
    running = {event.instance_uid for event in events if event.open}
    return {event.instance_uid for event in events} - running


async def _until_routed(demo: Demo, targets: int) -> None:
    """Wait until inference reaches this many instances: calls go to both of them from the first on."""
    seen: set[str] = set()
    async with demo.openai() as client:
        for number in range(8 * targets):
            noted = demo.log.begin(MANAGED, serverless=False)
            await ask_chat(client, noted, f"Say {number}.", 1)
            seen.add(noted.instance_uid)
            if len(seen) >= targets:
                return
    raise DemoFailed(f"calls reach {len(seen)} of {targets} instances")


async def _note_instances(demo: Demo) -> None:
    name = f"{demo.parent}/endpoints/{MANAGED}/deployments/{DEPLOYMENT}"
    found = await demo.modelyard.deploy.GetDeployment(deploy_pb2.GetDeploymentRequest(name=name))
    demo.instance_uids |= {instance.uid for instance in found.instances}


def _print_lives(lives: list[InstanceLife]) -> None:
    table(
        "Instance lives by their keepers' files",
        ("instance", "cores", "allocated (ms)", "exited (ms)", "core-ms"),
        ((life.instance_uid, life.vcpus, life.allocated_ms, life.exited_ms, f"{life.core_ms:,}") for life in lives),
        right=("cores", "core-ms"),
    )


def _said(read: int, made: int) -> None:
    out.print(f"\n[dim]  {read} tokens in, {made} out[/]")
