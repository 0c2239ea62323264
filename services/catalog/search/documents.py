"""A model's document, made from its rows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date
from typing import Any

import tantivy

from services.catalog.domain.names import id_of
from services.catalog.domain.search import day_number, published_day
from services.catalog.domain.words import plain, telling_words, words_of
from services.catalog.search import schema
from services.catalog.storage.queries.changes import ChangedModel

# How collections of each kind stand; models of a project's own stand above all.
_KIND_WEIGHTS = {"CURATED": 2, "PROVIDER": 1, "HUB": 0}
_OWN_WEIGHT = 3
# Words that a name is told apart by; longer ones count as this long.
_LENGTH_MAX = 31
# Facets that are lists in a model's facts, by the key they have there.
_LISTS = {
    "inference_task": "inference_tasks",
    "fine_tune_task": "fine_tune_tasks",
    "deployment_option": "deployment_options",
    "input_modality": "input_modalities",
    "output_modality": "output_modalities",
    "language": "languages",
    "industry": "industries",
    "capability": "capabilities",
    "tag": "tags",
}
_NUMBERS = ("context_tokens", "parameter_count", "size_bytes")


@dataclass(frozen=True, slots=True)
class Names:
    """What collections and publishers are called, and what kind collections are, by id."""

    collection_kinds: dict[str, str]
    collections: dict[str, str]
    publishers: dict[str, str]


def document_of(model: ChangedModel, names: Names, card_length_max: int) -> tantivy.Document:
    """The document of a model.

    Args:
        card_length_max: Characters of the card that can be found.
    """
    facts = model.facts
    publisher = _publisher_words(model, names)
    by_id, by_display_name = words_of(id_of(model.name)), words_of(model.display_name)
    title = [*by_id, *by_display_name, *publisher]
    facets = _text_facets(model)
    label = [*title, *_label_words(model, names, facets)]
    text = plain(f"{facts.get('summary', '')} {model.card[:card_length_max]}")
    id_length = len(telling_words(by_id))
    released = published_day(facts.get("release_date", ""))
    document = tantivy.Document(
        **{
            schema.NAME: model.name,
            schema.PROJECT: model.project_uid or schema.PUBLIC,
            schema.OPENINGS: list(dict.fromkeys([*_openings(by_id), *_openings(by_display_name)])),
            schema.NAME_WORDS: _joined([*by_id, *by_display_name]),
            schema.TITLE_WORDS: _joined(title),
            schema.LABEL_WORDS: _joined(label),
            schema.TEXT_WORDS: [_joined(label), text],
            schema.ID_LENGTH: id_length,
            schema.DISPLAY_LENGTH: len(telling_words(by_display_name)),
            schema.TITLE_LENGTH: len(telling_words([*words_of(model.publisher), *by_id])),
            schema.PREVIEW: int(model.preview),
            schema.LEGACY_DAY: _day(model.legacy_date),
            schema.DEPRECATION_DAY: _day(model.deprecation_date),
            schema.RETIREMENT_DAY: _day(model.retirement_date),
            schema.ANNOUNCED: model.stage,
            "create_time": day_number(model.create_time),
            **_ranks(model, names, id_length, released or day_number(model.create_time)),
            **facets,
        }
    )
    # A number that is not known is left out: no comparison holds for it.
    numbers = {field: facts.get(field) or None for field in _NUMBERS} | {
        "release_date": released,
        "input_price": model.input_price,
        "output_price": model.output_price,
    }
    for field, number in numbers.items():
        if number is not None:
            document.add_integer(field, number)
    return document


def _text_facets(model: ChangedModel) -> dict[str, list[str]]:
    facts = model.facts
    facets = {field: _values(facts.get(key, ())) for field, key in _LISTS.items()}
    served = (task.replace("_", "-") for task in facts.get("tasks", ()))
    return facets | {
        "collection": _values([model.collection]),
        "publisher": _values([model.publisher]),
        "license": _values([model.license_id]),
        "usability": _values([model.usability.replace("_", "-")]),
        "inference_task": _values([*facts.get("inference_tasks", ()), *served]),
        "modality": _values([*facts.get("input_modalities", ()), *facts.get("output_modalities", ())]),
    }


def _values(values: Any) -> list[str]:
    return list(dict.fromkeys(value.casefold() for value in values if value)) or [schema.NO_VALUE]


def _publisher_words(model: ChangedModel, names: Names) -> list[str]:
    return words_of(f"{model.publisher} {names.publishers.get(model.publisher, '')}")


def _label_words(model: ChangedModel, names: Names, facets: dict[str, list[str]]) -> list[str]:
    said = (
        *facets["tag"],
        *facets["inference_task"],
        *facets["fine_tune_task"],
        *facets["capability"],
        *facets["industry"],
        model.license_id,
        names.collections.get(model.collection, model.collection),
        model.facts.get("hub_id", ""),
    )
    return words_of(" ".join(said))


def _openings(words: list[str]) -> list[str]:
    return [" ".join(words[:count]) for count in range(1, min(len(words), schema.OPENING_WORDS) + 1)]


def _joined(words: list[str]) -> str:
    return " ".join(dict.fromkeys(words))


def _ranks(model: ChangedModel, names: Names, id_length: int, day: int) -> dict[str, int]:
    """Who supports it, whether it runs here, then how few words its name has, then how new it is; then its name's
    digest, so that two are hardly ever alike and every replica orders them alike."""
    kind = names.collection_kinds.get(model.collection, "")
    weight = _OWN_WEIGHT if model.project_uid else _KIND_WEIGHTS.get(kind, 0)
    featured, runs = bool(model.facts.get("featured")), model.usability == "RUNS_HERE"
    short = _LENGTH_MAX - min(id_length, _LENGTH_MAX)
    digest = int.from_bytes(hashlib.sha256(model.name.encode()).digest()[:5]) & (1 << 34) - 1
    return {
        schema.STANDING: featured << 57 | weight << 55 | runs << 54 | day << 34 | digest,
        schema.CLOSENESS: weight << 60 | runs << 59 | short << 54 | day << 34 | digest,
    }


def _day(text: str) -> int:
    return date.fromisoformat(text).toordinal() if text else schema.NEVER
