"""A second Modelyard as the provider: listed, quoted, deployed, called and billed by its own usage."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from modelyard.billing.v1 import billing_pb2
from modelyard.deploy.v1 import deploy_pb2
from modelyard.type.v1 import money_pb2
from modelyard_client import Modelyard, ModelyardError
from openai import AsyncOpenAI

from cli.commands.deployments import create_deployment, watch_deployment
from tests.infra.instances import wait_until
from tests.infra.up import Up, running_up

RETAIL, WHOLESALE = "projects/retail", "projects/wholesale"
GRAVITY: list[Any] = [{"role": "user", "content": "What is gravity?"}]
PRICES = {
    "list": "resale",
    "version": "1",
    "currency": "USD",
    "effective": date(2026, 1, 1),
    "prices": [
        {
            "resource": "publishers/wholesale/models/chat",
            "per_million_input_tokens": "3",
            "per_million_output_tokens": "5",
            "source": "a test",
        },
        {"resource": "publishers/wholesale/models/vectors", "per_million_input_tokens": "2", "source": "a test"},
    ],
}
SOURCE = {
    "name": "wholesale",
    "collection": "azure-openai",
    "key_reference": "wholesale",
    "exclude": ["*/*"],
    "provider": {"kind": "OPENAI", "publisher": "wholesale", "continuous_usage": True},
    "terms": {"id": "Wholesale terms", "url": "https://wholesale.example/terms"},
    "support": {"supported_by": "Wholesale", "contact": "help@wholesale.example", "sla": "99.9 % a month"},
}


@pytest.fixture(scope="module")
def reseller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """The second platform: it has prices of its own, and room for no instance."""
    folder = tmp_path_factory.mktemp("reseller")
    (folder / "prices").mkdir()
    (folder / "prices" / "resale.yaml").write_text(yaml.safe_dump(PRICES))
    settings = {
        "MODELYARD_BILLING_PRICE_LISTS_DIR": str(folder / "prices"),
        "MODELYARD_DEPLOY_INSTANCES_MAX": "0",
    }
    with running_up(folder / "home", settings) as platform:
        yield platform


@pytest_asyncio.fixture(scope="module")
async def wholesale_key(up: Up) -> str:
    """The key of a project of the first platform that has an endpoint for chat and one for vectors."""
    async with client_of(up) as modelyard:
        await modelyard.projects.CreateProject(deploy_pb2.CreateProjectRequest(project_id="wholesale"))
        await deploy(modelyard, WHOLESALE, "publishers/huggingfacetb/models/smollm2-135m-instruct", "chat")
        await deploy(modelyard, WHOLESALE, "publishers/sentence-transformers/models/all-minilm-l6-v2", "vectors")
        return await new_key(modelyard, WHOLESALE)


@pytest.fixture(scope="module")
def source_file(up: Up, reseller: Up, wholesale_key: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source as the reseller's operator writes it; the key lies in its own file."""
    key_file = reseller.home / "secrets" / "providers" / "wholesale"
    key_file.touch(mode=0o600)
    key_file.write_text(wholesale_key)
    return write_source(tmp_path_factory.mktemp("source"), up, SOURCE)


def write_source(folder: Path, up: Up, source: dict[str, Any]) -> Path:
    file = folder / "wholesale.yaml"
    provider = {**source["provider"], "base_url": f"{up.addresses['rest']}/v1"}
    file.write_text(yaml.safe_dump({**source, "provider": provider}))
    return file


@asynccontextmanager
async def client_of(platform: Up) -> AsyncIterator[Modelyard]:
    async with Modelyard.from_file(platform.home / "addresses.json") as modelyard:
        yield modelyard


async def deploy(modelyard: Modelyard, project: str, model: str, endpoint: str) -> billing_pb2.Quote:
    """Quote a model and deploy it serverless; it answers when this returns."""
    request = billing_pb2.CreateQuoteRequest(parent=project, model_version=model)
    quote: billing_pb2.Quote = await modelyard.billing.CreateQuote(request)
    created = await create_deployment(modelyard, project, endpoint, "blue", quote.model_version, quote, count=0)
    async for seen in watch_deployment(modelyard, created.name):
        if seen.state == deploy_pb2.DEPLOYMENT_STATE_ACTIVE:
            break
    return quote


async def new_key(modelyard: Modelyard, project: str) -> str:
    made = await modelyard.projects.CreateApiKey(deploy_pb2.CreateApiKeyRequest(parent=project))
    return str(made.secret)


def openai_of(platform: Up, key: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{platform.addresses['rest']}/v1", api_key=key, max_retries=0, timeout=60)


async def billed(platform: Up, project: str, calls: int) -> list[tuple[int, int]]:
    """(input, output) tokens of a project's calls, ordered, once so many are in the ledger."""
    found: list[tuple[int, int]] = []

    async with client_of(platform) as modelyard:

        async def all_there() -> bool:
            listed = await modelyard.billing.ListUsage(billing_pb2.ListUsageRequest(parent=project))
            amounts = [{one.meter: one.value for one in posted.record.quantities} for posted in listed.usage]
            found[:] = sorted(
                (one[money_pb2.METER_INPUT_TOKENS], one[money_pb2.METER_OUTPUT_TOKENS]) for one in amounts
            )
            return len(found) == calls

        await wait_until(all_there)
    return found


@dataclass(frozen=True)
class Shop:
    """What setting up the resale gave: what was previewed, what was synced, the quote for chat, and a key."""

    preview: Any
    applied: Any
    quote: billing_pb2.Quote
    key: str


@pytest_asyncio.fixture(scope="module")
async def shop(reseller: Up, source_file: Path) -> Shop:
    """A project of the reseller's with both models deployed: `talk` and `embed`."""
    preview = reseller.json("catalog", "sources", "apply", str(source_file), "--preview")
    applied = reseller.json("catalog", "sources", "apply", str(source_file))
    async with client_of(reseller) as modelyard:
        await modelyard.projects.CreateProject(deploy_pb2.CreateProjectRequest(project_id="retail"))
        quote = await deploy(modelyard, RETAIL, "publishers/wholesale/models/chat", "talk")
        await deploy(modelyard, RETAIL, "publishers/wholesale/models/vectors", "embed")
        return Shop(preview, applied, quote, await new_key(modelyard, RETAIL))


def test_a_preview_promises_what_a_sync_does(shop: Shop) -> None:
    assert sorted((change["model"], change["change"]) for change in shop.preview["changes"]) == [
        ("publishers/wholesale/models/chat", "added"),
        ("publishers/wholesale/models/vectors", "added"),
    ]
    run = shop.applied["last_run"]
    assert (run["state"], run["counts"]["added"]) == ("SYNC_STATE_SUCCEEDED", "2")


def test_the_quote_says_who_answers(shop: Shop) -> None:
    assert (shop.quote.supported_by, shop.quote.support_contact) == ("Wholesale", "help@wholesale.example")


async def test_a_call_is_billed_to_the_buyer_as_it_is_to_the_reseller(up: Up, reseller: Up, shop: Shop) -> None:
    """Token for token, by the provider's own usage: a streamed chat and vectors, through the unmodified client."""
    async with openai_of(reseller, shop.key) as client:
        stream = await client.chat.completions.create(
            model="talk", messages=GRAVITY, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        vectors = await client.embeddings.create(model="embed", input=["gravity", "apple"])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert [len(one.embedding) for one in vectors.data] == [384, 384]
    usage = chunks[-1].usage
    assert usage is not None

    said = sorted([(usage.prompt_tokens, usage.completion_tokens), (vectors.usage.prompt_tokens, 0)])
    assert await billed(reseller, RETAIL, 2) == said
    assert await billed(up, WHOLESALE, 2) == said
    async with client_of(reseller) as modelyard:
        bill = await modelyard.billing.GetBill(billing_pb2.GetBillRequest(parent=RETAIL))
    assert {
        (line.deployment.split("/")[3], line.rate.meter): (line.quantity, line.rate.amount) for line in bill.lines
    } == {
        ("talk", money_pb2.METER_INPUT_TOKENS): (usage.prompt_tokens, "3"),
        ("talk", money_pb2.METER_OUTPUT_TOKENS): (usage.completion_tokens, "5"),
        ("embed", money_pb2.METER_INPUT_TOKENS): (vectors.usage.prompt_tokens, "2"),
    }


async def test_a_trial_costs_the_reseller_and_nobody_else(up: Up, reseller: Up, shop: Shop) -> None:
    """The provider counts it; the project that tries has nothing to pay."""
    *said, last = reseller.tried("publishers/wholesale/models/chat", "Hello", "retail")
    assert "".join(piece["text"] for piece in said)
    usage = int(last["usage"]["input_tokens"]), int(last["usage"]["output_tokens"])
    assert usage[1] > 0
    assert usage in await billed(up, WHOLESALE, 3)
    assert await billed(reseller, "projects/modelyard", 1) == [usage]
    assert reseller.json("bill", "-p", "modelyard")["lines"] == []
    assert len(await billed(reseller, RETAIL, 2)) == 2


async def test_what_leaves_the_provider_is_closed_and_what_runs_goes_on(
    up: Up, reseller: Up, shop: Shop, tmp_path: Path
) -> None:
    """The deployment that is there is still called; a new one is refused by name."""
    narrowed = write_source(tmp_path, up, {**SOURCE, "exclude": ["*/*", "vectors"]})
    counts = reseller.json("catalog", "sources", "apply", str(narrowed))["last_run"]["counts"]
    assert (counts["withdrawn"], counts["unchanged"]) == ("1", "1")
    async with client_of(reseller) as modelyard:
        request = billing_pb2.CreateQuoteRequest(parent=RETAIL, model_version="publishers/wholesale/models/vectors")
        with pytest.raises(ModelyardError) as refused:
            await modelyard.billing.CreateQuote(request)
    assert refused.value.reason == "MODEL_WITHDRAWN"
    async with openai_of(reseller, shop.key) as client:
        assert (await client.embeddings.create(model="embed", input="still here")).data


def test_a_source_that_cannot_be_read_says_why(reseller: Up, shop: Shop) -> None:
    """And its models stay."""
    key_file = reseller.home / "secrets" / "providers" / "wholesale"
    key_file.chmod(0o644)
    run = json.loads(reseller.run("catalog", "sources", "sync", "wholesale", "--json", status=1).stdout)
    key_file.chmod(0o600)
    assert "may be read by others" in run["detail"]
    assert (run["state"], run["counts"]["withdrawn"]) == ("SYNC_STATE_FAILED", "0")
    status = json.loads(reseller.run("status", "--json", status=1).stdout)
    assert [part["name"] for part in status["parts"] if not part["ok"]] == ["sources/wholesale"]
