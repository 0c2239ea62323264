"""A hub's model as a record of this catalog."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec
from huggingface_hub import ModelInfo
from modelyard.catalog.v1 import catalog_pb2

from services.catalog.domain.hub import TASKS, Repository, Unrunnable
from services.catalog.domain.records import (
    ArtifactRecord,
    License,
    ModelRecord,
    Sample,
    Source,
    Support,
    VersionRecord,
)
from services.catalog.sources.hub.cards import Card
from services.catalog.sources.interface import PublishedScore

# What the hub calls a licence to what SPDX does.
_SPDX = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "cc0-1.0": "CC0-1.0",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0",
    "gpl-3.0": "GPL-3.0-only",
    "agpl-3.0": "AGPL-3.0-only",
    "lgpl-3.0": "LGPL-3.0-only",
    "isc": "ISC",
    "unlicense": "Unlicense",
}
_CARD_CHARACTERS_MAX = 256 << 10
_TAGS_MAX, _LANGUAGES_MAX = 50, 200
# Tags that the hub makes of facts that have a place of their own.
_FACT_TAG = re.compile(
    r"(region|license|base_model|dataset|arxiv|doi|template|diffusers|deploy):.*|endpoints_compatible|autotrain_compatible"
)
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]{2,4})?")
_VERSION_DIGITS = 12
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
# Positions count from here, so that they stay small numbers.
_POSITION_ZERO = datetime(2020, 1, 1, tzinfo=UTC)
# What models of a task take, where that is no text.
_INPUTS = {"automatic-speech-recognition": "audio", "image-classification": "image"}
_SAMPLES = {
    "CHAT_COMPLETION": Sample(
        title="One question",
        input='{"model": "ENDPOINT", "messages": [{"role": "user", "content": "What is gravity?"}], "max_tokens": 40}',
    ),
    "EMBEDDINGS": Sample(
        title="Two texts", input='{"model": "ENDPOINT", "input": ["The quick brown fox", "A fast auburn animal"]}'
    ),
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a hub says of one model at one commit."""

    endpoint: str
    collection: str
    repository: Repository
    info: ModelInfo


@dataclass(frozen=True, slots=True)
class Described:
    """A model at one commit, the results its card publishes, and how many of those were left out, by reason."""

    record: ModelRecord
    revision: str
    scores: tuple[PublishedScore, ...]
    dropped: Mapping[str, int]


def record_of(
    facts: Facts,
    card: Card,
    artifacts: Sequence[ArtifactRecord],
    serving: dict[str, Any] | Unrunnable,
    *,
    file: str = "",
    license_text: str = "",
    needs_credential: bool = False,
) -> Described:
    """The record of a model with one version.

    Args:
        file: The GGUF file that was asked for by name; it tells this version from others of the commit.
        needs_credential: Nothing but a credential is missing to run it.
    """
    repository, info = facts.repository, facts.info
    publisher, model = repository.id.split("/")
    runs = None if isinstance(serving, Unrunnable) else serving
    detail = serving.detail if isinstance(serving, Unrunnable) else ""
    usability = "NEEDS_PROVIDER_CREDENTIAL" if needs_credential else "NEEDS_HARDWARE" if detail else "RUNS_HERE"
    tasks = tuple(_tasks(repository, runs, info))
    text = card.text if len(card.text) <= _CARD_CHARACTERS_MAX else card.text[:_CARD_CHARACTERS_MAX]
    size_bytes = sum(artifact.size_bytes for artifact in artifacts)
    committed = info.last_modified or _POSITION_ZERO
    record = ModelRecord(
        publisher=publisher,
        model=model,
        collection=facts.collection,
        display_name=model,
        license=_license(card, license_text),
        tasks=tasks,
        # As at the hub's own platforms: endpoints of one's own, no shared pool.
        deployment_options=("MANAGED",),
        usability=usability,
        usability_detail=detail,
        # The page of a commit never changes, so the commit's day is the day the facts were true.
        sources=(
            Source(
                location=f"{facts.endpoint}/{repository.id}/tree/{repository.revision}",
                date=committed.date().isoformat(),
            ),
        ),
        versions=(
            VersionRecord(
                version=_version(repository.revision, file),
                position=int((committed - _POSITION_ZERO).total_seconds()),
                artifacts=tuple(artifacts),
                serving=runs,
                architecture=serving.architecture if isinstance(serving, Unrunnable) else "",
            ),
        ),
        summary=card.summary or f"A model for {repository.task.replace('-', ' ')} by {publisher}.",
        card=text,
        inference_tasks=tuple(dict.fromkeys([repository.task, *(task.lower().replace("_", "-") for task in tasks)])),
        languages=tuple(_languages(card)),
        input_modalities=(_INPUTS.get(repository.task, "text"),),
        output_modalities=("embeddings",) if tasks == ("EMBEDDINGS",) else ("text",),
        tags=tuple(_tags(info)),
        parameter_count=_parameter_count(info),
        context_tokens=runs["context_tokens"] if runs else 0,
        size_bytes=size_bytes,
        release_date=info.created_at.date().isoformat() if info.created_at else "",
        hub_id=repository.id,
        support=Support(
            supported_by=f"{publisher}, at the hub",
            contact=f"{facts.endpoint}/{repository.id}/discussions",
            sla="none: a community model",
        ),
        samples=tuple(_SAMPLES[task] for task in tasks if task in _SAMPLES),
    )
    return Described(record, repository.revision, card.scores, card.dropped)


def with_support(described: Described, support: catalog_pb2.Support) -> Described:
    """The model with what whoever configured its source says of its support; what is not said there stays."""
    of_hub = described.record.support
    said = Support(
        supported_by=support.supported_by or of_hub.supported_by,
        contact=support.contact or of_hub.contact,
        sla=support.sla or of_hub.sla,
    )
    return replace(described, record=msgspec.structs.replace(described.record, support=said))


def _version(revision: str, file: str) -> str:
    if not file:
        return revision[:_VERSION_DIGITS]
    stem = _NOT_IN_NAMES.sub("-", file.removesuffix(".gguf"))
    return f"{revision[:_VERSION_DIGITS]}-{stem}"[:128]


def _tasks(repository: Repository, serving: Mapping[str, Any] | None, info: ModelInfo) -> Iterator[str]:
    """What it answers; chat needs a template, which the hub's tag "conversational" stands for where no file was read."""
    chats = bool(serving["chat_template"]) if serving else "conversational" in (info.tags or ())
    for task in TASKS[repository.task]:
        if task != "CHAT_COMPLETION" or chats:
            yield task


def _license(card: Card, text: str) -> License:
    named = str(card.data.get("license") or "not stated")
    if named == "other":
        named = str(card.data.get("license_name") or named)
    return License(id=_SPDX.get(named, named), url=str(card.data.get("license_link") or ""), text=text)


def _languages(card: Card) -> Iterator[str]:
    stated = card.data.get("language") or ()
    codes = [stated] if isinstance(stated, str) else stated if isinstance(stated, list) else []
    known = dict.fromkeys(str(code) for code in codes if _LANGUAGE.fullmatch(str(code)))
    yield from list(known)[:_LANGUAGES_MAX]


def _tags(info: ModelInfo) -> list[str]:
    words = dict.fromkeys(str(tag) for tag in info.tags or () if not _FACT_TAG.fullmatch(str(tag)))
    return list(words)[:_TAGS_MAX]


def _parameter_count(info: ModelInfo) -> int:
    if info.safetensors is not None:
        return int(info.safetensors.total)
    summary = info.gguf or {}
    return int(summary.get("total", 0)) if isinstance(summary, dict) else 0
