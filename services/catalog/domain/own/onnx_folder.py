"""A folder as Sentence Transformers exports it: an encoder in ONNX, its tokenizer, and how its vectors become one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.catalog.domain.hub import Unrunnable, pooling_of
from services.catalog.domain.own.errors import ModelFilesInvalid
from services.catalog.domain.own.files import OwnFile, Served, json_object, json_value, rounded_memory

# Where exporters put the model, the first that is there; else the only ONNX file.
_PLACES = ("model.onnx", "onnx/model.onnx")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# What ONNX Runtime brings; others come in libraries, which are never loaded.
OPERATOR_SETS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
# Families that count positions from two on.
_SHIFTED = ("roberta", "xlm-roberta", "camembert", "mpnet")
_POSITION_SHIFT = 2


def serve_onnx_folder(files: Sequence[OwnFile], texts: Mapping[str, bytes], *, price_class: str) -> Served:
    """How the onnx engine serves the folder.

    Raises:
        ModelFilesInvalid: naming what is missing, or what the engine does not do.
    """
    by_name = {file.name: file for file in files}
    model = _model(files, by_name)
    check_operators(model)
    folder = model.name.rpartition("/")[0]
    weights = check_external(model, by_name)
    tokenizer = next((name for name in _beside(folder, "tokenizer.json") if name in by_name), "")
    if not tokenizer:
        raise _lacks("tokenizer.json", "the tokenizer as the tokenizers library saves it")
    if by_name[tokenizer].format != "json":
        raise ModelFilesInvalid(f"{tokenizer} is no JSON", field="files")
    config = json_object(texts, "config.json")
    if not config:
        raise _lacks("config.json", "the model's configuration")
    dimensions = _dimensions(model, config)
    way = _pooling(texts)
    context_tokens = _context_tokens(texts, config)
    size_bytes = model.size_bytes + sum(by_name[name].size_bytes for name in weights)
    return Served(
        serving={
            "engine": "onnx",
            "parameters": {
                "context_tokens": str(context_tokens),
                "pooling": way,
                "model_file": model.name,
                "tokenizer_file": tokenizer,
            },
            "chat_template": "",
            "bos_token": "",
            "eos_token": "",
            "min_vcpus": 1,
            "min_memory_bytes": rounded_memory(2 * size_bytes + (256 << 20)),
            "embedding_dimensions": dimensions,
            "context_tokens": context_tokens,
        },
        tasks=("EMBEDDINGS",),
        deployment_options=("MANAGED", "SERVERLESS"),
        price_class=price_class,
        parameter_count=int(model.facts["parameter_count"]),
        context_tokens=context_tokens,
    )


def check_operators(model: OwnFile) -> None:
    """Whether ONNX Runtime has all that a model's nodes need.

    Raises:
        ModelFilesInvalid: naming the set of operators.
    """
    if foreign := sorted(set(model.facts["domains"]) - OPERATOR_SETS):
        raise ModelFilesInvalid(
            f"{model.name} needs operators of {foreign[0][:80]!r}, which come in a library; ONNX's own and "
            "com.microsoft's are run",
            field="files",
        )


def check_external(model: OwnFile, by_name: Mapping[str, OwnFile]) -> list[str]:
    """Names of the files beside a model that hold its weights.

    Raises:
        ModelFilesInvalid: one is missing.
    """
    folder = model.name.rpartition("/")[0]
    names = [f"{folder}/{name}" if folder else name for name in model.facts["external_files"]]
    if missing := [name for name in names if name not in by_name]:
        raise _lacks(missing[0], f"weights that {model.name} takes from beside it")
    return names


def _model(files: Sequence[OwnFile], by_name: Mapping[str, OwnFile]) -> OwnFile:
    models = [file for file in files if file.format == "onnx"]
    for place in _PLACES:
        if place in by_name and by_name[place].format == "onnx":
            return by_name[place]
    if len(models) != 1:
        names = ", ".join(file.name for file in models[:5])
        raise ModelFilesInvalid(f"{len(models)} ONNX files are here ({names}); name one model.onnx", field="files")
    return models[0]


def _dimensions(model: OwnFile, config: Mapping[str, Any]) -> int:
    """Length of one vector, of a model that takes tokens and gives the last hidden state."""
    inputs = {one["name"]: one for one in model.facts["inputs"]}
    foreign = sorted(set(inputs) - set(_INPUTS))
    if foreign or "input_ids" not in inputs:
        has = ", ".join(sorted(inputs)) or "none"
        raise ModelFilesInvalid(
            f"{model.name} takes {has}; an encoder takes {', '.join(_INPUTS)}. Other models are served from a Triton "
            "repository, which takes raw tensors",
            field="files",
        )
    if other := [one for one in inputs.values() if one["type"] != "INT64"]:
        raise ModelFilesInvalid(
            f"{model.name} takes {other[0]['name']} as {other[0]['type'] or 'no tensor'}; INT64 is given", field="files"
        )
    output = model.facts["outputs"][0]
    shape = output["shape"] or []
    if output["type"] != "FP32" or len(shape) != 3:
        raise ModelFilesInvalid(
            f"the first output of {model.name} is {output['name'][:80]!r}, {output['type'] or 'no tensor'} with "
            f"{len(shape)} dimensions; the last hidden state is expected, FP32 with 3",
            field="files",
        )
    dimensions = shape[2] if shape[2] > 0 else config.get("hidden_size") or config.get("dim")
    if not isinstance(dimensions, int) or dimensions < 1:
        raise ModelFilesInvalid(
            "neither the model nor config.json (hidden_size) says how long a vector is", field="files"
        )
    return dimensions


def _pooling(texts: Mapping[str, bytes]) -> str:
    modules = json_value(texts, "modules.json") or []
    if not isinstance(modules, list) or not all(isinstance(one, dict) for one in modules):
        raise ModelFilesInvalid("modules.json holds no list of modules", field="files")
    way = pooling_of(modules, json_object(texts, "1_Pooling/config.json"))
    if isinstance(way, Unrunnable):
        raise ModelFilesInvalid(f"the folder cannot be served: {way.detail}", field="files")
    return way


def _context_tokens(texts: Mapping[str, bytes], config: Mapping[str, Any]) -> int:
    """Longest text: what the recipe states, else as many positions as there are."""
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    if not isinstance(positions, int) or positions < 1:
        raise ModelFilesInvalid("config.json does not say max_position_embeddings", field="files")
    if config.get("model_type") in _SHIFTED:
        positions -= _POSITION_SHIFT
    stated = json_object(texts, "sentence_bert_config.json").get("max_seq_length")
    return min(stated, positions) if isinstance(stated, int) and stated > 0 else positions


def _beside(folder: str, name: str) -> tuple[str, ...]:
    return (name, f"{folder}/{name}") if folder else (name,)


def _lacks(name: str, what: str) -> ModelFilesInvalid:
    return ModelFilesInvalid(f"{name} is missing: {what}", field="files")
