"""Which of the kinds that can be registered some files are, and how they are served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.catalog.domain.errors import ArchitectureNotSupported
from services.catalog.domain.hub import GgufFacts, RepositoryFile, Unrunnable, serve_gguf
from services.catalog.domain.own.errors import ModelFilesInvalid
from services.catalog.domain.own.files import OwnFile, Served
from services.catalog.domain.own.onnx_folder import serve_onnx_folder
from services.catalog.domain.own.triton_repository import (
    TritonConfig,
    serve_repository_of_encoder,
    serve_triton_repository,
    version_folder,
)

KINDS = "a GGUF file, a folder with an ONNX encoder and its tokenizer, or a Triton model repository with an ONNX model"
CONFIGURATION = "config.pbtxt"
# What is read of a folder besides the heads of its models.
_TEXTS = ("config.json", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json")
_DOCUMENTS = ("README.md", "LICENSE", "LICENSE.txt")
# Text models by their size in parameters: the smaller of these that holds them is what they are priced as.
_TEXT_CLASSES = ((4_000_000_000, "text-4b"), (16_000_000_000, "text-16b"), (80_000_000_000, "text-80b"))
_EMBEDDING_CLASS = "embeddings"
_SLOTS_MAX, _CONTEXT_TOKENS_MIN = 64, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingLimits:
    """How text models are served unless their owner says otherwise.

    Attributes:
        run_by: Engine to the architectures it runs.
        context_tokens: Longest input plus output, where the model was trained for as much.
        context_tokens_max: The most that an owner may ask for.
        slots: Requests decoded together.
    """

    run_by: Mapping[str, frozenset[str]]
    context_tokens: int = 2048
    context_tokens_max: int = 131_072
    slots: int = 8


def is_triton_repository(files: Sequence[OwnFile]) -> bool:
    """Whether a configuration of Triton is among the files."""
    return any(file.name.rpartition("/")[2] == CONFIGURATION for file in files)


def wanted_texts(files: Sequence[OwnFile]) -> list[str]:
    """Names of the small files whose content is needed to describe a version, and of its documents."""
    names = {file.name for file in files}
    if is_triton_repository(files):
        configurations = sorted(name for name in names if name.rpartition("/")[2] == CONFIGURATION)
        places = [f"{version_folder(files, one)}/{text}" for one in configurations for text in _TEXTS]
        return [*configurations, *(name for name in (*places, *_DOCUMENTS) if name in names)]
    return [name for name in (*_TEXTS, *_DOCUMENTS) if name in names]


def describe(
    files: Sequence[OwnFile],
    texts: Mapping[str, bytes],
    configurations: Mapping[str, TritonConfig],
    parameters: Mapping[str, str],
    limits: ServingLimits,
) -> Served:
    """How some files are served.

    Args:
        texts: Contents of `wanted_texts`.
        configurations: Those of them that configure Triton, parsed.
        parameters: What the owner sets: "context_tokens" and "slots" of text models, "task" of a Triton repository.

    Raises:
        ModelFilesInvalid: they are none of the kinds, or lack something, or need something that no engine here does.
        ArchitectureNotSupported: naming the architecture.
    """
    ggufs = [file for file in files if file.format == "gguf"]
    if is_triton_repository(files):
        _check_parameters(parameters, allowed=("task",))
        return _serve_repository(files, texts, configurations, parameters.get("task", ""))
    if ggufs:
        return _serve_gguf(ggufs, parameters, limits)
    if any(file.format == "onnx" for file in files):
        _check_parameters(parameters, allowed=())
        return serve_onnx_folder(files, texts, price_class=_EMBEDDING_CLASS)
    found = ", ".join(sorted({file.format for file in files})) or "nothing"
    raise ModelFilesInvalid(
        f"the files are none that can be registered: {KINDS} can, and {found} is here", field="files"
    )


def _serve_repository(
    files: Sequence[OwnFile], texts: Mapping[str, bytes], configurations: Mapping[str, TritonConfig], task: str
) -> Served:
    if task == "embeddings":
        return serve_repository_of_encoder(files, texts, configurations, price_class=_EMBEDDING_CLASS)
    if task:
        raise ModelFilesInvalid(
            f"parameter task is {task[:32]!r}; embeddings is known, and none takes raw tensors", field="parameters"
        )
    return serve_triton_repository(files, configurations)


def _serve_gguf(ggufs: Sequence[OwnFile], parameters: Mapping[str, str], limits: ServingLimits) -> Served:
    if len(ggufs) > 1:
        names = ", ".join(file.name for file in ggufs[:5])
        raise ModelFilesInvalid(
            f"{len(ggufs)} GGUF files are here ({names}); a version has one: merge its parts, or register the others as "
            "versions of their own",
            field="files",
        )
    file = ggufs[0]
    _check_parameters(parameters, allowed=("context_tokens", "slots"))
    facts = GgufFacts(**file.facts)
    context_max = min(facts.context_tokens or limits.context_tokens_max, limits.context_tokens_max)
    context_tokens = _number(parameters, "context_tokens", limits.context_tokens, _CONTEXT_TOKENS_MIN, context_max)
    slots = _number(parameters, "slots", limits.slots, 1, _SLOTS_MAX)
    source = RepositoryFile(file.name, file.size_bytes, file.sha256, "")
    serving = serve_gguf(facts, source, limits.run_by, context_tokens_max=context_tokens, slots=slots)
    if isinstance(serving, Unrunnable):
        raise ArchitectureNotSupported(serving.detail, metadata={"architecture": serving.architecture}, field="files")
    serving["parameters"]["model_file"] = file.name
    chats = bool(facts.chat_template)
    # The shared pool is asked for chats, which need a template.
    price_class = next((name for most, name in _TEXT_CLASSES if chats and facts.parameter_count <= most), "")
    return Served(
        serving=serving,
        tasks=("CHAT_COMPLETION", "TEXT_GENERATION") if chats else ("TEXT_GENERATION",),
        deployment_options=("MANAGED", "SERVERLESS") if price_class else ("MANAGED",),
        price_class=price_class,
        parameter_count=facts.parameter_count,
        context_tokens=serving["context_tokens"],
    )


def _check_parameters(parameters: Mapping[str, str], *, allowed: Sequence[str]) -> None:
    if foreign := sorted(set(parameters) - set(allowed)):
        may = ", ".join(allowed) or "none"
        raise ModelFilesInvalid(
            f"parameter {foreign[0][:64]!r} cannot be set for files of this kind; {may} can", field="parameters"
        )


def _number(parameters: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    given: Any = parameters.get(name, "")
    if not given:
        return min(default, most)
    if not given.isascii() or not given.isdigit() or not least <= int(given) <= most:
        raise ModelFilesInvalid(
            f"parameter {name} is {given[:32]!r}; {least} to {most} are allowed", field="parameters"
        )
    return int(given)
