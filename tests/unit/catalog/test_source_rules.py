"""Which of a source's models are taken, what they are called here, and what they answer."""

from __future__ import annotations

import pytest
from modelyard.catalog.v1 import catalog_pb2, providers_pb2, sources_pb2

from services.catalog.domain.errors import SourceInvalid
from services.catalog.domain.sources import Selection, model_id, task_of
from services.catalog.usecases.sources import checked_spec

CHAT, EMBEDDINGS, NOTHING = "CHAT_COMPLETION", "EMBEDDINGS", ""


@pytest.mark.parametrize(
    ("include", "exclude", "taken"),
    [
        ((), (), ["gpt-4o", "gpt-4o-mini", "o3"]),
        (("gpt-*",), (), ["gpt-4o", "gpt-4o-mini"]),
        (("gpt-*", "o?"), ("*-mini",), ["gpt-4o", "o3"]),
        ((), ("*",), []),
        (("GPT-*",), (), []),
    ],
)
def test_what_is_excluded_wins(include: tuple[str, ...], exclude: tuple[str, ...], taken: list[str]) -> None:
    selection = Selection(include, exclude)
    assert [name for name in ("gpt-4o", "gpt-4o-mini", "o3") if selection.takes(name)] == taken


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("gpt-4o-2024-11-20", "gpt-4o-2024-11-20"),
        ("chat/blue", "chat-blue"),
        ("meta-llama/Llama-3.1-8B", "meta-llama-Llama-3.1-8B"),
        ("llama3:8b", "llama3-8b"),
        ("ft:gpt-4o:acme::abc", "ft-gpt-4o-acme-abc"),
        ("/x/", "x"),
        ("模型", None),
        ("...", None),
        ("x" * 129, None),
    ],
)
def test_a_name_that_fits_is_made_of_the_providers(name: str, own: str | None) -> None:
    assert model_id(name) == own


@pytest.mark.parametrize(
    ("name", "capabilities", "task"),
    [
        ("gpt-4o", None, CHAT),
        ("text-embedding-3-small", None, EMBEDDINGS),
        ("nomic-embed-text", None, EMBEDDINGS),
        ("whisper-1", None, NOTHING),
        ("dall-e-3", None, NOTHING),
        ("gpt-4o-realtime-preview", None, NOTHING),
        ("omni-moderation-latest", None, NOTHING),
        ("imagine-chat", None, CHAT),
        ("whatever", {"chat_completion": True, "embeddings": False}, CHAT),
        ("gpt-like", {"chat_completion": False, "embeddings": True}, EMBEDDINGS),
        ("gpt-like", {"fine_tune": True}, NOTHING),
    ],
)
def test_a_providers_word_counts_more_than_a_name(name: str, capabilities: dict[str, bool] | None, task: str) -> None:
    assert task_of(name, {}, capabilities) == task


def test_the_operators_word_counts_most_and_the_closest_one_first() -> None:
    rules = {"*": "none", "gpt-*": "chat-completion", "gpt-embed*": "embeddings"}
    names = ("gpt-embed-1", "gpt-4o", "other")
    assert [task_of(name, rules, {"chat_completion": True}) for name in names] == [EMBEDDINGS, CHAT, NOTHING]


def a_source(**changes: object) -> sources_pb2.ModelSource:
    provider = {
        "kind": providers_pb2.PROVIDER_KIND_OPENAI,
        "base_url": "https://api.acme.example/v1/",
        "publisher": "publishers/acme",
    }
    inner = changes.pop("provider", {})
    assert isinstance(inner, dict)
    fields = {"collection": "collections/far", **changes}
    return sources_pb2.ModelSource(provider=sources_pb2.ProviderSource(**{**provider, **inner}), **fields)  # type: ignore[arg-type]


def test_what_is_configured_is_kept_and_nothing_else() -> None:
    source = a_source(include=["a*"], interval_s=60, uid="mine", etag="7", model_count=3)
    spec = checked_spec(source, insecure=False)
    assert (spec.provider.base_url, list(spec.include), spec.interval_s) == ("https://api.acme.example/v1", ["a*"], 60)
    assert (spec.uid, spec.etag, spec.model_count) == ("", "", 0)


AZURE = {"kind": providers_pb2.PROVIDER_KIND_AZURE_OPENAI}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"interval_s": 59}, "interval_s"),
        ({"interval_s": -1}, "interval_s"),
        ({"include": ["x"] * 101}, "include"),
        ({"exclude": [""]}, "exclude"),
        ({"exclude": ["x" * 257]}, "exclude"),
        ({"collection": "far"}, "collection"),
        ({"key_reference": "../key"}, "key_reference"),
        ({"terms": catalog_pb2.License(text="x" * 70_000)}, "terms.text"),
        ({"terms": catalog_pb2.License(acceptance_required=True)}, "terms.text"),
        ({"support": catalog_pb2.Support(sla="x" * 4001)}, "support.sla"),
        ({"provider": {"kind": 0}}, "provider.kind"),
        ({"provider": {"base_url": "http://api.acme.example/v1"}}, "provider.base_url"),
        ({"provider": {"base_url": "https://user:secret@acme.example"}}, "provider.base_url"),
        ({"provider": {"publisher": "acme"}}, "provider.publisher"),
        ({"provider": {"api_version": "2024-10-21"}}, "provider.api_version"),
        ({"provider": AZURE, "key_reference": "k"}, "provider.api_version"),
        ({"provider": {**AZURE, "api_version": "2024-10-21"}}, "key_reference"),
        ({"provider": {"tasks": {"a*": "sing"}}}, "provider.tasks"),
        ({"provider": {"deployments": {str(n): "d" for n in range(1001)}}}, "provider.deployments"),
    ],
)
def test_a_wrong_source_is_refused_by_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(SourceInvalid) as refused:
        checked_spec(a_source(**changes), insecure=False)
    assert refused.value.field == field
    assert "secret" not in refused.value.message


def test_a_source_without_a_kind_is_refused() -> None:
    with pytest.raises(SourceInvalid, match="set provider"):
        checked_spec(sources_pb2.ModelSource(collection="collections/far"), insecure=False)
