"""What a provider's `/models` becomes, without a network."""

from __future__ import annotations

import asyncio
import json
from datetime import date
from pathlib import Path
from typing import Any

import httpx2
import pytest
from modelyard.catalog.v1 import catalog_pb2, providers_pb2, sources_pb2

from services.catalog.domain.errors import SourceUnavailable
from services.catalog.sources.interface import Batch
from services.catalog.sources.provider import ListingBounds, provider_adapters
from tests.infra.provider import PROVIDER_KEY, ScriptedProvider, provider_keys

TODAY = date(2026, 1, 15)
SUPPORT = catalog_pb2.Support(supported_by="Acme", contact="https://acme.example/help", sla="99.9 % a month")
TERMS = catalog_pb2.License(
    id="Acme terms", url="https://acme.example/terms", text="Be good.", acceptance_required=True
)


def a_source(**changes: Any) -> sources_pb2.ModelSource:
    provider = {
        "kind": providers_pb2.PROVIDER_KIND_OPENAI,
        "base_url": "https://api.acme.example/v1",
        "publisher": "publishers/acme",
        **changes.pop("provider", {}),
    }
    fields = {
        "name": "sources/acme-east",
        "collection": "collections/far",
        "key_reference": "acme",
        "support": SUPPORT,
        "terms": TERMS,
        **changes,
    }
    return sources_pb2.ModelSource(provider=sources_pb2.ProviderSource(**provider), **fields)


def a_list(*models: Any, **more: Any) -> bytes:
    return json.dumps({"object": "list", "data": list(models), **more}).encode()


class Pages(ScriptedProvider):
    """A list on several pages."""

    def __init__(self, *pages: bytes) -> None:
        super().__init__()
        self._pages = list(pages)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return httpx2.Response(200, content=self._pages.pop(0))


async def read(
    folder: Path,
    provider: ScriptedProvider,
    source: sources_pb2.ModelSource | None = None,
    cursor: str = "",
    **bounds: Any,
) -> list[Batch]:
    keys = provider_keys(folder)
    adapter = provider_adapters(keys, ListingBounds(**bounds), transport=provider)(source or a_source(), TODAY)
    return [batch async for batch in adapter.batches(cursor)]


async def test_a_listed_model_says_who_answers_under_which_terms(tmp_path: Path) -> None:
    provider = ScriptedProvider(a_list({"id": "talker-1", "object": "model", "created": 1, "owned_by": "acme-labs"}))
    (batch,) = await read(tmp_path, provider, a_source(provider={"continuous_usage": True}))
    (record,) = batch.records
    assert (record.publisher, record.model, record.collection) == ("acme", "talker-1", "far")
    assert (record.usability, record.tasks, record.deployment_options) == (
        "RUNS_HERE",
        ("CHAT_COMPLETION",),
        ("SERVERLESS",),
    )
    assert (record.support.sla, record.license.text, record.license.acceptance_required) == (
        "99.9 % a month",
        "Be good.",
        True,
    )
    assert (record.sources[0].location, record.sources[0].date) == ("https://api.acme.example/v1/models", "2026-01-15")
    assert "owned by acme-labs" in record.card
    assert batch.offers == {
        "publishers/acme/models/talker-1": providers_pb2.ProviderTarget(
            provider="acme-east",
            kind=providers_pb2.PROVIDER_KIND_OPENAI,
            base_url="https://api.acme.example/v1",
            model="talker-1",
            key_reference="acme",
            continuous_usage=True,
        )
    }
    assert provider.requests[0].headers["authorization"] == f"Bearer {PROVIDER_KEY}"


async def test_azure_openai_says_what_its_models_do_and_when_they_end(tmp_path: Path) -> None:
    """Which are called by the names of their deployments there."""
    end = 1_796_083_200  # 2026-12-01
    listed = {
        "id": "gpt-4o-2024-11-20",
        "status": "succeeded",
        "capabilities": {"fine_tune": False, "inference": True, "chat_completion": True, "embeddings": False},
        "lifecycle_status": "preview",
        "deprecation": {"fine_tune": end, "inference": end},
    }
    azure = {
        "kind": providers_pb2.PROVIDER_KIND_AZURE_OPENAI,
        "base_url": "https://acme.openai.azure.com",
        "api_version": "2024-10-21",
        "deployments": {"gpt-4o-2024-11-20": "our-gpt"},
    }
    provider = ScriptedProvider(a_list(listed))
    (batch,) = await read(tmp_path, provider, a_source(provider=azure))
    (record,), (target,) = batch.records, batch.offers.values()
    lifecycle = record.versions[0].lifecycle
    assert (lifecycle.preview, lifecycle.retirement, lifecycle.fine_tune_retirement) == (
        True,
        date(2026, 12, 1),
        date(2026, 12, 1),
    )
    assert (target.model, target.api_version) == ("our-gpt", "2024-10-21")
    request = provider.requests[0]
    assert str(request.url) == "https://acme.openai.azure.com/openai/models?api-version=2024-10-21"
    assert request.headers["api-key"] == PROVIDER_KEY


async def test_globs_and_what_models_do_decide_which_are_taken(tmp_path: Path) -> None:
    names = ["talker-1", "talker-2", "whisper-1", "text-embedding-1", "other"]
    source = a_source(include=["t*", "w*"], exclude=["*-2"], provider={"tasks": {"other": "chat-completion"}})
    (batch,) = await read(tmp_path, ScriptedProvider(a_list(*({"id": name} for name in names))), source)
    assert [(record.model, record.tasks) for record in batch.records] == [
        ("talker-1", ("CHAT_COMPLETION",)),
        ("text-embedding-1", ("EMBEDDINGS",)),
    ]
    assert batch.skipped == 3


async def test_what_cannot_be_taken_fails_alone(tmp_path: Path) -> None:
    models = [{"id": "good"}, {"id": "模型"}, {"name": "x"}, {"id": 7}, "text", {"id": "a/b"}, {"id": "a:b"}]
    (batch,) = await read(tmp_path, ScriptedProvider(a_list(*models)))
    assert [record.model for record in batch.records] == ["a-b", "good"]
    assert sorted(failure.model for failure in batch.failures) == ["", "", "", "a:b", "模型"]


async def test_a_list_goes_on_over_its_pages(tmp_path: Path) -> None:
    provider = Pages(a_list({"id": "a"}, has_more=True, last_id="a"), a_list({"id": "b"}, has_more=False))
    (batch,) = await read(tmp_path, provider)
    assert [record.model for record in batch.records] == ["a", "b"]
    assert [request.url.query for request in provider.requests] == [b"", b"after=a"]


async def test_many_models_come_in_batches_that_can_be_gone_on_with(tmp_path: Path) -> None:
    listed = a_list(*({"id": f"m{number:03}"} for number in range(450)), {"id": "whisper-1"})
    batches = await read(tmp_path / "1", ScriptedProvider(listed))
    assert [(len(batch.records), batch.cursor, batch.skipped) for batch in batches] == [
        (200, "m199", 1),
        (200, "m399", 0),
        (50, "", 0),
    ]
    rest = await read(tmp_path / "2", ScriptedProvider(listed), cursor="m399")
    assert [(len(batch.records), batch.skipped) for batch in rest] == [(50, 0)]


async def test_the_same_list_says_the_same(tmp_path: Path) -> None:
    listed = a_list({"id": "b"}, {"id": "a", "owned_by": "x"})
    assert await read(tmp_path / "1", ScriptedProvider(listed)) == await read(tmp_path / "2", ScriptedProvider(listed))


@pytest.mark.parametrize(
    ("provider", "bounds", "message"),
    [
        (ScriptedProvider(status=401), {}, "refused the credential; renew the key"),
        (ScriptedProvider(status=404), {}, "correct the base URL"),
        (ScriptedProvider(status=429), {}, "asked too often"),
        (ScriptedProvider(status=302, headers={"location": "https://evil.example"}), {}, "HTTP status 302"),
        (ScriptedProvider(b"<html>"), {}, "not OpenAI's"),
        (ScriptedProvider(b'{"data": {}}'), {}, "not OpenAI's"),
        (ScriptedProvider(b"x" * 101), {"bytes_max": 100}, "more than 100 bytes a page"),
        (ScriptedProvider(a_list({"id": "a"}, {"id": "b"})), {"models_max": 1}, "more than 1 models"),
        (ScriptedProvider(a_list({"id": "a"}), httpx2.ReadError("reset")), {}, "ReadError"),
        (ScriptedProvider(asyncio.Event()), {"s_max": 0.05}, r"within 0\.05 s"),
        (Pages(*(a_list(has_more=True, last_id=str(n)) for n in range(3))), {"pages_max": 3}, "more than 3 pages"),
    ],
)
async def test_half_a_list_is_none(tmp_path: Path, provider: ScriptedProvider, bounds: Any, message: str) -> None:
    """It would withdraw the other half. What went wrong is said without the key."""
    with pytest.raises(SourceUnavailable, match=message) as refused:
        await read(tmp_path, provider, **bounds)
    assert PROVIDER_KEY not in refused.value.message
    assert refused.value.message.startswith("provider 'acme-east' at https://api.acme.example/v1")


async def test_without_a_readable_key_nothing_is_sent(tmp_path: Path) -> None:
    provider = ScriptedProvider(a_list())
    with pytest.raises(SourceUnavailable, match=r"absent cannot be read .*mode 0600"):
        await read(tmp_path, provider, a_source(key_reference="absent"))
    assert provider.requests == []


async def test_a_provider_that_needs_no_key_gets_none(tmp_path: Path) -> None:
    provider = ScriptedProvider(a_list({"id": "a"}))
    await read(tmp_path, provider, a_source(key_reference=""))
    assert "authorization" not in provider.requests[0].headers
