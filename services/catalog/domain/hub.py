"""Which models of a hub are taken in, which of their files count, and which engine runs them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

# Libraries whose models are taken in, as the hub names them.
LIBRARIES = ("transformers", "sentence-transformers", "diffusers", "gguf")
# A hub's task to the calls that a model of it answers here.
TASKS: Mapping[str, tuple[str, ...]] = {
    "text-generation": ("CHAT_COMPLETION", "TEXT_GENERATION"),
    "sentence-similarity": ("EMBEDDINGS",),
    "feature-extraction": ("EMBEDDINGS",),
    "automatic-speech-recognition": ("TRANSCRIPTION",),
    "image-classification": ("IMAGE_CLASSIFICATION",),
}
# Quantisations of a GGUF file: as small as keeps the model's quality, then larger, then smaller.
_BEST_FIRST = "Q4_K_M Q4_K_S Q4_0 Q4_1 IQ4_NL IQ4_XS Q5_K_M Q5_K_S Q5_0 Q5_1 Q6_K Q8_0 Q3_K_L Q3_K_M Q3_K_S IQ3_M Q2_K F16 BF16 F32"
_QUANTISATIONS = tuple(_BEST_FIRST.split())
_QUANTISATION = re.compile(r"(?:^|[^A-Z0-9])(I?Q\d+(?:_[A-Z0-9]+)*|BF16|F16|F32)\.GGUF$")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
# Small files beside the weights of a safetensors model that whoever runs it needs.
_BESIDE_SAFETENSORS = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "chat_template.jinja",
        "model.safetensors.index.json",
    }
)
ENCODER_FILES = ("config.json", "model.safetensors", "tokenizer.json")
_MODULES = ("Transformer", "Pooling", "Normalize")
_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}
# Architectures of an engine that a refusal names before it says how many more there are.
_SHOWN = 6


class Gate(StrEnum):
    """Whether a repository's files are given to whoever asks."""

    OPEN = ""
    # Whoever accepts the terms is let in.
    AUTOMATIC = "auto"
    # The owner lets in whom they choose.
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """One file at one commit. `sha256` is empty where the hub does not tell it: files outside LFS have git's digest."""

    path: str
    size_bytes: int
    sha256: str
    git_oid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """What a hub says of one model at one commit.

    Attributes:
        id: `ORG/NAME`.
        revision: The commit, 40 hexadecimal digits.
        library: What the hub says loads it; empty where it does not say.
        libraries: Those of `LIBRARIES` that load it, by that or by its tags.
        task: The hub's task; empty where none is stated.
        architectures: As `config.json` lists them.
        remote_code: Code of its own would run on load.
    """

    id: str
    revision: str
    library: str
    libraries: set[str]
    task: str
    architectures: tuple[str, ...]
    files: tuple[RepositoryFile, ...]
    remote_code: bool = False
    gate: Gate = Gate.OPEN
    private: bool = False
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a model is not taken in. `reason` is for counting, `detail` for people."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Unrunnable:
    """No engine here runs it; one sentence says why. `architecture` is set where that is what no engine runs."""

    detail: str
    architecture: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFacts:
    """What the head of a GGUF file says of the model in it.

    Attributes:
        context_tokens: Longest input plus output it was trained for; 0 where it is not said.
        bos_token: Text a template begins with; empty where the engine begins every prompt itself.
        state_bytes_per_token: What one token in the context holds in memory, bytes; 0 where it cannot be told.
    """

    architecture: str
    context_tokens: int
    chat_template: str
    bos_token: str
    eos_token: str
    state_bytes_per_token: int
    parameter_count: int = 0


def obstacles(repository: Repository) -> Iterator[Obstacle]:
    """Every reason not to take a model in; none where it is eligible. A gate is no reason: what is behind it is listed."""
    publisher, _, model = repository.id.partition("/")
    if not (_NAME.fullmatch(publisher) and _NAME.fullmatch(model)):
        yield Obstacle(
            "NAME_NOT_SUPPORTED",
            f"it is called {repository.id!r}; ORG/NAME, each beginning with a letter or a digit, can be names here",
        )
    if repository.disabled:
        yield Obstacle("DISABLED", "the hub has disabled it")
    if repository.private:
        yield Obstacle("PRIVATE", "it is private; what this catalog lists is seen by everybody")
    if not repository.libraries:
        yield Obstacle(
            "LIBRARY_NOT_SUPPORTED",
            f"its library is {repository.library or 'not stated'}; models for {', '.join(LIBRARIES)} are taken",
        )
    if repository.task not in TASKS:
        yield Obstacle(
            "TASK_NOT_SUPPORTED",
            f"its task is {repository.task or 'not stated'}; models for {', '.join(TASKS)} are taken",
        )
    if repository.remote_code:
        yield Obstacle("REMOTE_CODE", "it runs code of its own when it is loaded, which is never done here")
    if not any(file.path.endswith((".safetensors", ".gguf")) for file in repository.files):
        yield Obstacle(
            "NO_SAFE_WEIGHTS", "it has no safetensors and no GGUF file; other weights can run code when they are loaded"
        )


def gguf_of(repository: Repository, wanted: str = "") -> RepositoryFile | Unrunnable | None:
    """The GGUF file to run: the one that is wanted, or the best quantisation; None where the model has none."""
    files = [file for file in repository.files if file.path.endswith(".gguf") and "mmproj" not in file.path.lower()]
    if wanted:
        found = next((file for file in files if file.path == wanted), None)
        return found or Unrunnable(f"it has no GGUF file {wanted!r}; it has {_some([file.path for file in files])}")
    whole = [file for file in files if not _PART.search(file.path)]
    if files and not whole:
        return Unrunnable(f"its GGUF is cut into {len(files)} parts; whole files are run")
    return min(whole, key=lambda file: (_rank(file.path), file.size_bytes, file.path), default=None)


def artifact_name(file: RepositoryFile) -> str:
    """What a file is called among a version's artifacts: a plain file name, as engines need it."""
    return _NOT_IN_NAMES.sub("-", file.path.rpartition("/")[2]).lstrip("._-")


def safetensors_of(repository: Repository) -> tuple[RepositoryFile, ...]:
    """The files of a safetensors model, of its main folder: the weights and what whoever loads them needs."""
    return tuple(
        file
        for file in repository.files
        if "/" not in file.path and (file.path.endswith(".safetensors") or file.path in _BESIDE_SAFETENSORS)
    )


def serve_gguf(
    facts: GgufFacts,
    file: RepositoryFile,
    run_by: Mapping[str, frozenset[str]],
    *,
    context_tokens_max: int,
    slots: int,
) -> dict[str, Any] | Unrunnable:
    """How llama.cpp serves a GGUF file: fields of `modelyard.catalog.v1.Serving`.

    Args:
        run_by: Engine to the architectures it runs.
        context_tokens_max: Longest input plus output that is served, whatever the model was trained for.
        slots: Requests decoded together; each has a context of its own.
    """
    if facts.architecture not in run_by["llamacpp"]:
        return _no_engine(facts.architecture, run_by)
    context_tokens = min(facts.context_tokens or context_tokens_max, context_tokens_max)
    state = facts.state_bytes_per_token * context_tokens * slots
    return {
        "engine": "llamacpp",
        "parameters": {"context_tokens": str(context_tokens), "slots": str(slots)},
        "chat_template": facts.chat_template,
        "untrusted_template": bool(facts.chat_template),
        "bos_token": facts.bos_token,
        "eos_token": facts.eos_token,
        "min_vcpus": 1,
        # The file is mapped, the state held; the rest is the engine's own.
        "min_memory_bytes": _rounded_up(file.size_bytes + state + file.size_bytes // 8 + (256 << 20)),
        "embedding_dimensions": 0,
        "context_tokens": context_tokens,
    }


def serve_encoder(
    repository: Repository,
    config: Mapping[str, Any],
    modules: Sequence[Mapping[str, Any]],
    pooling: Mapping[str, Any],
    run_by: Mapping[str, frozenset[str]],
    *,
    context_tokens: int,
) -> dict[str, Any] | Unrunnable:
    """How the safetensors engine serves an encoder: fields of `modelyard.catalog.v1.Serving`.

    Args:
        config: Its `config.json`.
        modules: Its `modules.json`; empty for one without a recipe, whose tokens' vectors are then averaged.
        pooling: `config.json` of its pooling.
        context_tokens: Longest text it takes.
    """
    architecture = repository.architectures[0] if repository.architectures else "not stated"
    if architecture not in run_by["safetensors"]:
        return _no_engine(architecture, run_by)
    files = {file.path: file for file in repository.files}
    if missing := [name for name in ENCODER_FILES if name not in files]:
        return Unrunnable(f"it has no {missing[0]}, which the engine needs")
    way = pooling_of(modules, pooling)
    if isinstance(way, Unrunnable):
        return way
    size = files["model.safetensors"].size_bytes
    return {
        "engine": "safetensors",
        "parameters": {"context_tokens": str(context_tokens), "pooling": way},
        "chat_template": "",
        "bos_token": "",
        "eos_token": "",
        "min_vcpus": 1,
        "min_memory_bytes": _rounded_up(size + size // 2 + (256 << 20)),
        "embedding_dimensions": int(config.get("hidden_size") or config.get("dim") or 0),
        "context_tokens": context_tokens,
    }


def pooling_of(modules: Sequence[Mapping[str, Any]], pooling: Mapping[str, Any]) -> str | Unrunnable:
    """How a Sentence Transformers recipe makes one vector of a text's: "mean", "cls" or "max"."""
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if foreign := [kind for kind in kinds if kind not in _MODULES]:
        return Unrunnable(f"its vectors pass a module {foreign[0]!r}; {', '.join(_MODULES)} are run")
    ways = [way for mode, way in _POOLINGS.items() if pooling.get(mode)]
    others = [mode for mode, chosen in pooling.items() if mode.startswith("pooling_mode") and chosen is True]
    if len(others) > 1 or (others and not ways):
        return Unrunnable(
            f"its tokens' vectors are pooled by {_some(sorted(others))}; one of {_some(list(_POOLINGS))} is run"
        )
    return ways[0] if ways else "mean"


def generates_text(repository: Repository) -> bool:
    """Whether calls of text are what it answers, and not those of vectors or of other tasks."""
    return "TEXT_GENERATION" in TASKS[repository.task]


def no_engine_for(repository: Repository, run_by: Mapping[str, frozenset[str]]) -> Unrunnable:
    """A model in safetensors that is no encoder."""
    return _no_engine(repository.architectures[0] if repository.architectures else "not stated", run_by)


def gated_detail(repository: Repository, page: str) -> str:
    """What it takes to use a model behind a gate."""
    asks = "its owner admits people one by one" if repository.gate is Gate.MANUAL else "its terms must be accepted"
    return f"gated: {asks} at {page}, and its source here needs the token of an account that was admitted"


def _no_engine(architecture: str, run_by: Mapping[str, frozenset[str]]) -> Unrunnable:
    lists = "; ".join(f"{engine} runs {_some(sorted(names))}" for engine, names in run_by.items())
    return Unrunnable(f"architecture {architecture!r} is run by no engine here: {lists}", architecture)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown or "none"


def _rank(path: str) -> int:
    found = _QUANTISATION.search(path.upper())
    return _QUANTISATIONS.index(found[1]) if found and found[1] in _QUANTISATIONS else len(_QUANTISATIONS)


def _rounded_up(size_bytes: int) -> int:
    """To whole 64 MiB."""
    return -(-size_bytes // (64 << 20)) * (64 << 20)
