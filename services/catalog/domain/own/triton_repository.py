"""A Triton model repository with one ONNX model: it takes raw tensors as it is, or texts where it is an encoder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from services.catalog.domain.own.errors import ModelFilesInvalid
from services.catalog.domain.own.files import OwnFile, Served, rounded_memory
from services.catalog.domain.own.onnx_folder import check_external, check_operators, serve_onnx_folder

ENGINE = "tensors"
_BACKENDS = ("onnxruntime", "onnxruntime_onnx")
_BATCH_MAX, _TENSORS_MAX, _DIMENSIONS_MAX = 4096, 100, 16
# In one request without its batch: more would fit into no message, and the keeper's canary sends as many zeros.
_ITEMS_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output: Triton's name of its type, such as "FP32", and its shape without the batch."""

    name: str
    type: str
    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonConfig:
    """What is served of a `config.pbtxt`.

    Attributes:
        backend: "onnxruntime", or what else it names, by `backend` or the older `platform`.
        foreign: Settings in it that nothing here does, such as "ensemble_scheduling"; empty where all is served.
    """

    name: str
    backend: str
    max_batch_size: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    is_batched_dynamically: bool = False
    model_file: str = "model.onnx"
    foreign: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class _Repository:
    """The one model of a repository, and the tensors that it takes and gives."""

    config: TritonConfig
    model: OwnFile
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


def version_folder(files: Sequence[OwnFile], configuration: str) -> str:
    """The folder with the highest version that has an ONNX model, of those that a `config.pbtxt` is for; empty where there
    is none."""
    models = [one for one in _in_versions(files, configuration.rpartition("/")[0]) if one[2].format == "onnx"]
    if not models:
        return ""
    _, rest, newest = max(models, key=lambda one: one[0])
    return newest.name.removesuffix(f"/{rest}")


def serve_triton_repository(files: Sequence[OwnFile], configurations: Mapping[str, TritonConfig]) -> Served:
    """How the tensors engine serves the repository: on managed compute only, since raw tensors pass no token meter.

    Raises:
        ModelFilesInvalid: naming what is missing, or what no engine here does.
    """
    repository = _checked(files, configurations)
    config, model = repository.config, repository.model
    by_name = {file.name: file for file in files}
    size_bytes = model.size_bytes + sum(by_name[name].size_bytes for name in check_external(model, by_name))
    return Served(
        serving={
            "engine": ENGINE,
            "parameters": {
                "model_file": model.name,
                "max_batch_size": str(config.max_batch_size),
                "dynamic_batching": str(config.is_batched_dynamically).lower(),
                "inputs": _as_json(repository.inputs),
                "outputs": _as_json(repository.outputs),
            },
            "chat_template": "",
            "bos_token": "",
            "eos_token": "",
            "min_vcpus": 1,
            "min_memory_bytes": rounded_memory(2 * size_bytes + (256 << 20)),
            "embedding_dimensions": 0,
            "context_tokens": 0,
        },
        tasks=(),
        deployment_options=("MANAGED",),
        price_class="",
        parameter_count=int(model.facts["parameter_count"]),
        context_tokens=0,
    )


def serve_repository_of_encoder(
    files: Sequence[OwnFile],
    texts: Mapping[str, bytes],
    configurations: Mapping[str, TritonConfig],
    *,
    price_class: str,
) -> Served:
    """How the onnx engine serves a repository whose newest version is a folder with an encoder: both ways, since it takes
    texts, whose tokens are counted.

    Raises:
        ModelFilesInvalid: naming what is missing, or what no engine here does.
    """
    folder = f"{_checked(files, configurations).model.name.rpartition('/')[0]}/"
    own = [replace(file, name=file.name.removeprefix(folder)) for file in files if file.name.startswith(folder)]
    own_texts = {name.removeprefix(folder): text for name, text in texts.items() if name.startswith(folder)}
    served = serve_onnx_folder(own, own_texts, price_class=price_class)
    for parameter in ("model_file", "tokenizer_file"):
        served.serving["parameters"][parameter] = folder + served.serving["parameters"][parameter]
    return served


def _checked(files: Sequence[OwnFile], configurations: Mapping[str, TritonConfig]) -> _Repository:
    if len(configurations) != 1:
        raise ModelFilesInvalid(
            f"the repository has {len(configurations)} models; a version has one: register each by itself",
            field="files",
        )
    ((place, config),) = configurations.items()
    folder = place.rpartition("/")[0]
    _check_config(folder, config)
    model = _newest(folder, config, files)
    check_operators(model)
    inputs = _tensors(model, "inputs", config.inputs, config.max_batch_size)
    outputs = _tensors(model, "outputs", config.outputs, config.max_batch_size)
    if {one["name"] for one in model.facts["inputs"]} != {tensor.name for tensor in inputs}:
        wanted = ", ".join(one["name"] for one in model.facts["inputs"])
        raise ModelFilesInvalid(f"{place} does not name every input of {model.name}: {wanted}", field="files")
    return _Repository(config, model, inputs, outputs)


def _check_config(folder: str, config: TritonConfig) -> None:
    where = f"{folder or '.'}/config.pbtxt"
    if config.backend not in _BACKENDS:
        ran = "code of its own, which is never run here" if config.backend == "python" else "which no engine here runs"
        raise ModelFilesInvalid(
            f"{where} names the backend {config.backend[:64]!r}, {ran}; onnxruntime is served", field="files"
        )
    if config.foreign:
        raise ModelFilesInvalid(f"{where} sets {config.foreign[0]}, which nothing here does", field="files")
    if config.name and folder and config.name != folder.rpartition("/")[2]:
        raise ModelFilesInvalid(f"{where} names the model {config.name[:64]!r}, and its folder does not", field="files")
    if not 0 <= config.max_batch_size <= _BATCH_MAX:
        raise ModelFilesInvalid(
            f"{where} sets max_batch_size {config.max_batch_size}; 0 to {_BATCH_MAX} are allowed", field="files"
        )


def _in_versions(files: Sequence[OwnFile], folder: str) -> Iterator[tuple[int, str, OwnFile]]:
    """Files in the version folders of a model's folder, each with its version and its name within it."""
    before = f"{folder}/" if folder else ""
    for file in files:
        version, slash, rest = file.name.removeprefix(before).partition("/")
        if file.name.startswith(before) and slash and version.isascii() and version.isdigit():
            yield int(version), rest, file


def _newest(folder: str, config: TritonConfig, files: Sequence[OwnFile]) -> OwnFile:
    """The model file of the highest version folder."""
    found = {version: file for version, rest, file in _in_versions(files, folder) if rest == config.model_file}
    if not found:
        before = f"{folder}/" if folder else ""
        raise ModelFilesInvalid(f"{before}1/{config.model_file} is missing: the model of the repository", field="files")
    newest = found[max(found)]
    if newest.format != "onnx":
        raise ModelFilesInvalid(f"{newest.name} is no ONNX model", field="files")
    return newest


def _tensors(model: OwnFile, side: str, stated: Sequence[Tensor], max_batch_size: int) -> list[Tensor]:
    """As the configuration states them, checked against the model; as the model states them where it leaves them out."""
    known = {one["name"]: one for one in model.facts[side]}
    if not stated:
        stated = [_from_model(model, one, max_batch_size) for one in known.values()]
    if not 1 <= len(stated) <= _TENSORS_MAX:
        raise ModelFilesInvalid(f"{model.name} has {len(stated)} {side}; 1 to {_TENSORS_MAX} are served", field="files")
    for tensor in stated:
        found = known.get(tensor.name)
        if found is None:
            has = ", ".join(sorted(known))
            raise ModelFilesInvalid(
                f"config.pbtxt names {tensor.name[:80]!r} among the {side}, and {model.name} has {has}", field="files"
            )
        if tensor.type != found["type"]:
            raise ModelFilesInvalid(
                f"config.pbtxt says {tensor.name!r} is {tensor.type}, and {model.name} says {found['type'] or 'no tensor'}",
                field="files",
            )
        if len(tensor.dims) > _DIMENSIONS_MAX or not all(one == -1 or one > 0 for one in tensor.dims):
            raise ModelFilesInvalid(
                f"{tensor.name!r} has the shape {list(tensor.dims)}; lengths above 0, or -1, are served", field="files"
            )
        if (items := math.prod(max(one, 1) for one in tensor.dims)) > _ITEMS_MAX:
            raise ModelFilesInvalid(
                f"{tensor.name!r} has {items} items in one request; {_ITEMS_MAX} are served", field="files"
            )
        if found["shape"] is not None and len(found["shape"]) != len(tensor.dims) + bool(max_batch_size):
            raise ModelFilesInvalid(
                f"config.pbtxt gives {tensor.name!r} the shape {list(tensor.dims)}"
                f"{' after the batch' if max_batch_size else ''}, and {model.name} has {found['shape']}",
                field="files",
            )
    return list(stated)


def _from_model(model: OwnFile, stated: Mapping[str, Any], max_batch_size: int) -> Tensor:
    if not stated["type"] or stated["shape"] is None:
        raise ModelFilesInvalid(
            f"{model.name} does not say the type and shape of {stated['name'][:80]!r}; config.pbtxt has to",
            field="files",
        )
    shape = stated["shape"][1:] if max_batch_size else stated["shape"]
    return Tensor(stated["name"], stated["type"], tuple(one if one > 0 else -1 for one in shape))


def _as_json(tensors: Sequence[Tensor]) -> str:
    return json.dumps([{"name": one.name, "type": one.type, "dims": list(one.dims)} for one in tensors])
