"""The fixed questions of the search benchmark, and what each is meant to find."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

from modelyard.catalog.v1 import search_pb2

RARE, COMMON, MISSPELT, FILTERED = 100, 60, 100, 40
# How many different questions there are of each kind.
_COMMON_WORDS = (
    "llama", "mistral", "qwen", "gemma", "instruct", "gguf", "7b", "8b", "bert", "whisper", "german", "french", "lora",
    "chat", "code", "medical", "text generation", "embeddings", "image classification", "speech recognition",
    "apache", "roleplay", "quantised weights", "learning rate", "accuracy", "summarization", "stable diffusion",
    "reasoning", "finance", "vision",
)  # fmt: skip
_FILTERS = (
    ("license", "EQ", "mit"),
    ("language", "EQ", "de"),
    ("inference_task", "EQ", "text-generation"),
    ("context_tokens", "GT", "32k"),
    ("deployment_option", "EQ", "serverless"),
    ("stage", "EQ", "deprecated"),
    ("industry", "NE", "legal"),
    ("release_date", "GT", "2025-01-01"),
    ("output_modality", "EQ", "image"),
    ("capability", "EQ", "reasoning"),
)


@dataclass(frozen=True)
class Question:
    """One search, its kind, and the model that it is meant to find; empty where many will do."""

    kind: str
    request: search_pb2.SearchModelsRequest
    wanted: str = ""


def questions(targets: Sequence[str], unique: Sequence[bool]) -> list[Question]:
    """RARE + COMMON + MISSPELT + FILTERED questions.

    Args:
        targets: Resource names of models, at least RARE + MISSPELT.
        unique: Whether no other model is called like each: then half of them are asked for by the name alone.
    """
    rng = random.Random(1)  # noqa: S311 - load, not a secret
    found = [
        Question("rare", _asked(_typed(rng, name, alone)), name)
        for name, alone in zip(targets[:RARE], unique, strict=False)
    ]
    for number in range(COMMON):
        words = _COMMON_WORDS[number % len(_COMMON_WORDS)]
        found.append(Question("common", _asked(words if number % 2 else f"{words} {rng.choice(_COMMON_WORDS)}")))
    misspelt = zip(targets[RARE : RARE + MISSPELT], unique[RARE:], strict=False)
    for number, (name, alone) in enumerate(misspelt):
        text = _typed(rng, name, alone)
        for _ in range(1 + number % 2):
            text = _mistaken(rng, text)
        found.append(Question("misspelt", _asked(text), name))
    for number in range(FILTERED):
        filters = [_FILTERS[number % len(_FILTERS)], rng.choice(_FILTERS)][: 1 + number % 2]
        found.append(Question("filtered", _asked(_COMMON_WORDS[number % len(_COMMON_WORDS)], filters)))
    return found


def facet_requests() -> list[search_pb2.SearchModelsRequest]:
    """Everything counted by what a page of filters shows: of all models, of common words, with filters."""
    facets = (
        "collection", "license", "inference_task", "fine_tune_task", "deployment_option", "modality", "language",
        "industry", "capability", "usability", "stage", "context_tokens",
    )  # fmt: skip
    asked = [_asked("")] + [_asked(words) for words in _COMMON_WORDS] + [_asked("", [one]) for one in _FILTERS]
    for request in asked:
        request.facets.extend(facets)
        request.page_size = 10
    return asked


def _asked(query: str, filters: Sequence[tuple[str, str, str]] = ()) -> search_pb2.SearchModelsRequest:
    return search_pb2.SearchModelsRequest(
        query=query,
        page_size=20,
        filters=[
            search_pb2.Filter(
                field=field, operator=search_pb2.FilterOperator.Value(f"FILTER_OPERATOR_{operator}"), values=[value]
            )
            for field, operator, value in filters
        ],
    )


def _typed(rng: random.Random, name: str, is_unique: bool) -> str:
    """A model as people type it: with its publisher, or by its name alone where that is enough; dashes or blanks."""
    _, publisher, _, model = name.split("/")
    text = model if is_unique and rng.random() < 0.5 else f"{publisher} {model}"
    return text.replace("-", " ") if rng.random() < 0.5 else text


def _mistaken(rng: random.Random, text: str) -> str:
    """One letter left out, put in, replaced or swapped. Digits stay: with another one it is another model's name."""
    places = [place for place, letter in enumerate(text) if letter.isalpha()]
    place = rng.choice(places)
    letter, form = rng.choice(string.ascii_lowercase), rng.randrange(4)
    before, at, after = text[:place], text[place], text[place + 1 :]
    if form == 0:
        return before + after
    if form == 1:
        return before + letter + at + after
    if form == 2 or not after[:1].isalpha():
        return before + letter + after
    return before + after[0] + at + after[1:]
