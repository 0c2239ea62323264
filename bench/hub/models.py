"""A million models as a hub holds them: publishers, families, sizes, quantisations, tasks, licences, tags, cards.

Model `n` depends on the seed and `n` alone. Names are crowded as they are on a hub: a few publishers hold much of it,
every base model has hundreds of copies and quantisations, coined names lie a letter or two apart. What they are made of
lies in `families.csv` and `words.yaml`.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import msgspec
import yaml

from services.catalog.domain.records import License, Lifecycle, ModelRecord, Source, VersionRecord

PUBLISHERS = 60_000
# One model in so many is the family's own, by its maker, in the curated collection.
_CURATED_EACH = 500
_EPOCH, _DAYS = date(2022, 1, 3), 1_600
_SOURCE = (Source(location="bench/hub", date="2026-11-25"),)
_FOLDER = Path(__file__).parent
_WORDS: dict[str, Any] = yaml.safe_load((_FOLDER / "words.yaml").read_text())
_LANGUAGES: dict[str, str] = _WORDS["languages"]
_CODES = tuple(_LANGUAGES)
_SCALES = {"b": 10**9, "m": 10**6}


@dataclass(frozen=True, slots=True)
class Family:
    """A line of base models; sizes as names write them."""

    name: str
    maker: str
    license: str
    versions: tuple[str, ...]
    sizes: tuple[str, ...]
    variants: tuple[str, ...]
    tasks: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    contexts: tuple[int, ...]


def _read_families() -> list[Family]:
    def several(text: str) -> tuple[str, ...]:
        return tuple(text.split("|"))

    with (_FOLDER / "families.csv").open(newline="") as file:
        return [
            Family(
                name=row["name"],
                maker=row["maker"],
                license=row["license"],
                versions=several(row["versions"]),
                sizes=several(row["sizes"]),
                variants=several(row["variants"]),
                tasks=several(row["tasks"]),
                inputs=several(row["inputs"]),
                outputs=several(row["outputs"]),
                contexts=tuple(map(int, several(row["contexts"]))),
            )
            for row in csv.DictReader(file)
        ]


FAMILIES = _read_families()
_FAMILY_WEIGHTS = [1.0 / (1 + number) ** 0.6 for number in range(len(FAMILIES))]


@dataclass(frozen=True, slots=True)
class _Base:
    """What a model was made from."""

    family: Family
    size: str
    name: str
    language: str


def hub_models(count: int, *, seed: int = 1) -> Iterator[ModelRecord]:
    """The first `count` models; a name that its publisher has used before is followed by a number."""
    seen: set[int] = set()
    for number in range(count):
        model = hub_model(number, seed=seed)
        key = hash((model.publisher, model.model))
        if key in seen:
            model = msgspec.structs.replace(model, model=f"{model.model}-{number}")
            key = hash((model.publisher, model.model))
        seen.add(key)
        yield model


def hub_model(number: int, *, seed: int = 1) -> ModelRecord:
    """Model `number` of the hub with this seed."""
    rng = random.Random(seed << 40 | number)  # noqa: S311 - load, not a secret
    base = _base(rng)
    family = base.family
    is_curated = number % _CURATED_EACH == 0
    publisher = family.maker if is_curated else _publisher(int(PUBLISHERS ** rng.random()) - 1)
    name = base.name if is_curated else _stem(rng, base)
    quantisation = rng.choice(_WORDS["quantisations"]) if not is_curated and rng.random() < 0.3 else ""
    # Some carry the number of a run, and so do curated ones that come again.
    is_numbered = rng.random() < 0.1 or (is_curated and number)
    model_id = "-".join(part for part in (name, quantisation, str(number % 1000) if is_numbered else "") if part)
    license_id = family.license if rng.random() < 0.6 else rng.choice(_WORDS["licenses"])
    release = _EPOCH + timedelta(days=int(_DAYS * rng.random() ** 0.5))
    facts = {
        "name": model_id,
        "base": base.name,
        "publisher": publisher,
        "size": base.size,
        "task": family.tasks[0],
        "license": license_id,
        "language": _LANGUAGES[base.language].title(),
        "context": family.contexts[0] or 512,
        "quantisation": quantisation or "safetensors",
        "dataset": rng.choice(_WORDS["datasets"]),
    }
    tags = [
        rng.choice(_WORDS["libraries"]),
        *rng.sample(_WORDS["extra_tags"], rng.randrange(1, 6)),
        family.name.lower(),
    ]
    return ModelRecord(
        publisher=publisher,
        model=model_id,
        collection="curated" if is_curated else "hugging-face",
        display_name=model_id.replace("-", " "),
        summary=_WORDS["openings"][number % len(_WORDS["openings"])].format(**facts),
        card=_card(rng, facts),
        license=License(id=license_id),
        tasks=("CHAT_COMPLETION",) if is_curated and "chat-completion" in family.tasks else (),
        inference_tasks=family.tasks,
        fine_tune_tasks=family.tasks[:1] if rng.random() < 0.4 else (),
        deployment_options=("MANAGED", "SERVERLESS") if rng.random() < 0.2 else ("MANAGED",),
        usability="RUNS_HERE" if rng.random() < 0.05 else "NEEDS_HARDWARE",
        languages=tuple(dict.fromkeys(("en", base.language))),
        tags=tuple(dict.fromkeys([*tags, quantisation.lower()] if quantisation else tags)),
        input_modalities=family.inputs,
        output_modalities=family.outputs,
        industries=(rng.choice(_WORDS["industries"]),) if rng.random() < 0.1 else (),
        capabilities=tuple(rng.sample(_WORDS["capabilities"], rng.randrange(0, 4))),
        parameter_count=_parameters(base.size),
        context_tokens=rng.choice(family.contexts),
        release_date=release.isoformat(),
        hub_id="" if is_curated else f"{publisher}/{model_id}",
        sources=_SOURCE,
        versions=(VersionRecord(version="1", position=1, lifecycle=_lifecycle(rng, release)),),
    )


def _base(rng: random.Random) -> _Base:
    family = rng.choices(FAMILIES, _FAMILY_WEIGHTS)[0]
    size = rng.choice(family.sizes)
    parts = (family.name, rng.choice(family.versions), size, rng.choice(family.variants))
    language = rng.choice(_CODES) if rng.random() < 0.4 else "en"
    return _Base(family, size, "-".join(part for part in parts if part), language)


def _stem(rng: random.Random, base: _Base) -> str:
    """A copy of a base, a tuned one, one named by its data set, a merge, or the output of a script."""
    chance = rng.random()
    if chance < 0.16:
        return base.name
    if chance < 0.52:
        family, method = rng.choice(("", base.family.name)), rng.choice(("", "", rng.choice(_WORDS["methods"])))
        version = rng.choice(("", "v1", "v2", "v0.3", "beta", "2407"))
        return "-".join(part for part in (_title(rng), family, base.size, method, version) if part)
    if chance < 0.82:
        method = rng.choice(("finetuned", "ft", rng.choice(_WORDS["methods"]).lower()))
        language = f"-{_LANGUAGES[base.language]}" if base.language != "en" else ""
        return f"{base.name.lower()}-{method}-{rng.choice(_WORDS['datasets'])}{language}"
    if chance < 0.92:
        return f"{_title(rng)}-x-{_title(rng)}-{base.size}-{rng.choice(('slerp', 'ties', 'dare', 'merge'))}"
    return f"{_coined(rng)}-{rng.choice(_WORDS['datasets'])}-{rng.randrange(1000, 99999)}"


def _publisher(number: int) -> str:
    rng = random.Random(number * 7919 + 13)  # noqa: S311 - load, not a secret
    form = rng.random()
    if form < 0.3:
        return f"{rng.choice(_WORDS['adjectives'])}-{rng.choice(_WORDS['nouns'])}-{number}"
    if form < 0.6:
        kind = rng.choice(("", "-ai", "-labs", "-research", "ml", "hub"))
        return f"{_coined(rng)}{kind}{number if number > 500 else ''}"
    return f"{_coined(rng)}-{_coined(rng)}{number if number > 5000 else ''}"


def _coined(rng: random.Random) -> str:
    """A word that means nothing."""
    onsets, vowels, codas = _WORDS["onsets"], _WORDS["vowels"], _WORDS["codas"]
    return "".join(rng.choice(onsets) + rng.choice(vowels) + rng.choice(codas) for _ in range(rng.choice((2, 2, 3))))


def _title(rng: random.Random) -> str:
    form = rng.random()
    if form < 0.45:
        return _coined(rng).title()
    if form < 0.75:
        return f"{rng.choice(_WORDS['adjectives']).title()}-{rng.choice(_WORDS['nouns']).title()}"
    return f"{rng.choice(_WORDS['nouns']).title()}{_coined(rng).title()}"


def _parameters(size: str) -> int:
    """What a size in a name means ("8x7B", "135M"); 0 where it says nothing."""
    number, scale = size.partition("-")[0], _SCALES.get(size[-1:].lower())
    experts, _, each = number[:-1].rpartition("x")
    if scale is None or not each.replace(".", "").isdigit():
        return 0
    return round(float(each) * int(experts or 1) * scale)


def _lifecycle(rng: random.Random, release: date) -> Lifecycle:
    chance = rng.random()
    if chance >= 0.05:
        return Lifecycle(preview=chance > 0.97)
    legacy = release + timedelta(days=rng.randrange(200, 900))
    return Lifecycle(legacy=legacy, deprecation=legacy + timedelta(days=60), retirement=legacy + timedelta(days=180))


def _card(rng: random.Random, facts: dict[str, Any]) -> str:
    """Between half a kilobyte and two and a half."""
    sentences = [rng.choice(_WORDS["openings"]), *rng.sample(_WORDS["sentences"], 4 + int(24 * rng.random() ** 1.6))]
    text = "\n\n".join(sentences).format(
        **facts,
        dataset2=rng.choice(_WORDS["datasets"]),
        steps=rng.randrange(500, 90_000),
        batch=rng.randrange(8, 2048),
        rate=f"{rng.randrange(1, 9)}e-0{rng.randrange(4, 7)}",
        score=f"0.{rng.randrange(400, 990)}",
        score2=f"0.{rng.randrange(300, 900)}",
        loss=f"{rng.randrange(0, 4)}.{rng.randrange(10, 9999)}",
        perplexity=f"{rng.randrange(2, 40)}.{rng.randrange(10, 99)}",
        vocabulary=rng.randrange(30_000, 260_000),
        month=rng.choice(_WORDS["months"]),
        year=rng.randrange(2022, 2027),
        language2=_LANGUAGES[rng.choice(_CODES)].title(),
        memory=rng.randrange(1, 160),
        library=rng.choice(_WORDS["libraries"]),
        adjective=rng.choice(_WORDS["adjectives"]),
        noun=rng.choice(_WORDS["nouns"]),
        method=rng.choice(_WORDS["methods"]),
        coined=_coined(rng).title(),
        industry=rng.choice(_WORDS["industries"]),
        digest=f"{rng.getrandbits(40):010x}",
    )
    return f"# {facts['name']}\n\n{text}\n"
