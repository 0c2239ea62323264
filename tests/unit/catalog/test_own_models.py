"""What files are told to be, how they are then served, and what is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from chassis.errors import InvalidArgument, Problem
from engines.architectures import RUN_BY
from engines.weights import embedded_artifacts
from services.catalog.artifacts.scanning.scan import scan_file
from services.catalog.artifacts.triton_config import read_triton_config
from services.catalog.domain.errors import ArchitectureNotSupported
from services.catalog.domain.own.describe import CONFIGURATION, ServingLimits, describe, wanted_texts
from services.catalog.domain.own.errors import LabelInvalid, ModelFilesInvalid
from services.catalog.domain.own.files import OwnFile, Served
from services.catalog.domain.own.rules import check_version_id, check_words, next_version_id, with_labels
from tests.infra.model_files import FLOAT, doubling_model, encoder, tensor_info

TRITON = """
backend: "onnxruntime"
max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 3 ] } ]
"""


@pytest.fixture
def told(tmp_path: Path) -> Any:
    """Describes files by what looking at them tells, as a registration does."""

    def files(contents: Mapping[str, bytes], **parameters: str) -> Served:
        rows = []
        for name, content in contents.items():
            path = tmp_path / "file"
            path.write_bytes(content)
            scanned = scan_file(path)
            rows.append(OwnFile(name, "0" * 64, len(content), scanned.format, scanned.facts))
        texts = {name: contents[name] for name in wanted_texts(rows)}
        configurations = {
            name: read_triton_config(name, text) for name, text in texts.items() if name.endswith(CONFIGURATION)
        }
        limits = ServingLimits(run_by=RUN_BY)
        return describe(rows, texts, configurations, parameters, limits)

    return files


def onnx_folder(**changes: Any) -> dict[str, bytes]:
    """A folder as Sentence Transformers writes it; None leaves a file out."""
    files = {
        "model.onnx": encoder(),
        "tokenizer.json": b"{}",
        "config.json": b'{"model_type": "bert", "hidden_size": 8, "max_position_embeddings": 512}',
        "modules.json": b"[]",
        "1_Pooling/config.json": b"{}",
        **changes,
    }
    return {name: value for name, value in files.items() if value is not None}


def encoder_repository(**changes: Any) -> dict[str, bytes]:
    """The same folder as the newest version of a Triton repository."""
    newest = {f"minilm/10/{name}": value for name, value in onnx_folder(**changes).items()}
    older = {f"minilm/9/{name}": value for name, value in onnx_folder().items()}
    return {**newest, **older, "minilm/config.pbtxt": b'backend: "onnxruntime" max_batch_size: 8'}


def refused(told: Any, contents: Mapping[str, bytes], **parameters: str) -> str:
    with pytest.raises(ModelFilesInvalid) as caught:
        told(contents, **parameters)
    return caught.value.message


@pytest.fixture(scope="module")
def smollm2() -> OwnFile:
    (path,) = embedded_artifacts("SmolLM2-135M-Instruct").values()
    scanned = scan_file(path)
    return OwnFile("smol.gguf", "0" * 64, path.stat().st_size, scanned.format, scanned.facts)


def serve(file: OwnFile, **parameters: str) -> Served:
    return describe([file], {}, {}, parameters, ServingLimits(run_by=RUN_BY))


def test_a_gguf_says_how_it_is_served(smollm2: OwnFile) -> None:
    served = serve(smollm2, slots="2")
    assert served.tasks == ("CHAT_COMPLETION", "TEXT_GENERATION")
    assert served.deployment_options == ("MANAGED", "SERVERLESS")
    assert served.price_class == "text-4b"
    assert served.serving["engine"] == "llamacpp"
    assert served.serving["parameters"]["slots"] == "2"
    assert served.serving["context_tokens"] == 2048
    assert "im_start" in served.serving["chat_template"]
    assert served.serving["min_memory_bytes"] > smollm2.size_bytes


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"slots": "0"}, "parameter slots is '0'; 1 to 64"),
        ({"context_tokens": "9000"}, "parameter context_tokens is '9000'; 64 to 8192"),
        ({"context_tokens": "²"}, "parameter context_tokens is '²'"),
        ({"threads": "2"}, "parameter 'threads' cannot be set"),
    ],
)
def test_parameters_have_bounds(smollm2: OwnFile, parameters: dict[str, str], word: str) -> None:
    with pytest.raises(ModelFilesInvalid) as caught:
        serve(smollm2, **parameters)
    assert word in caught.value.message


def test_an_architecture_that_no_engine_runs_is_named() -> None:
    with pytest.raises(ArchitectureNotSupported, match="mamba9") as caught:
        serve(gguf("mamba9"))
    assert caught.value.metadata["architecture"] == "mamba9"


@pytest.mark.parametrize(
    ("billions", "options", "price_class"),
    [(4, ("MANAGED", "SERVERLESS"), "text-4b"), (16, ("MANAGED", "SERVERLESS"), "text-16b"), (81, ("MANAGED",), "")],
)
def test_tokens_are_priced_by_size(billions: int, options: tuple[str, ...], price_class: str) -> None:
    """What is larger than the largest class is served by the hour alone."""
    served = serve(gguf("llama", parameter_count=billions * 10**9, chat_template="{{ messages }}"))
    assert (served.deployment_options, served.price_class) == (options, price_class)


def test_what_has_no_chat_template_is_managed_only() -> None:
    """Raw tensors reach it there; the shared pool is asked for chats."""
    served = serve(gguf("llama"))
    assert (served.deployment_options, served.price_class) == (("MANAGED",), "")
    assert served.tasks == ("TEXT_GENERATION",)


def gguf(architecture: str, parameter_count: int = 1000, chat_template: str = "") -> OwnFile:
    facts = {
        "architecture": architecture,
        "parameter_count": parameter_count,
        "context_tokens": 4096,
        "state_bytes_per_token": 0,
        "chat_template": chat_template,
        "bos_token": "",
        "eos_token": "",
    }
    return OwnFile("m.gguf", "0" * 64, 10, "gguf", facts)


def test_an_onnx_folder_gives_embeddings(told: Any) -> None:
    pooling = {"1_Pooling/config.json": b'{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'}
    modules = [
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
        {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"},
    ]
    limit = {"sentence_bert_config.json": b'{"max_seq_length": 128}'}
    served = told(onnx_folder(**pooling, **limit, **{"modules.json": json.dumps(modules).encode()}))
    assert served.tasks == ("EMBEDDINGS",)
    assert served.price_class == "embeddings"
    assert served.serving["parameters"] == {
        "context_tokens": "128",
        "pooling": "cls",
        "model_file": "model.onnx",
        "tokenizer_file": "tokenizer.json",
    }
    assert served.serving["embedding_dimensions"] == 8


def test_a_model_in_its_own_folder_is_found(told: Any) -> None:
    served = told(onnx_folder(**{"model.onnx": None, "onnx/model.onnx": encoder()}))
    assert served.serving["parameters"]["model_file"] == "onnx/model.onnx"


def test_positions_that_are_not_for_tokens_do_not_count(told: Any) -> None:
    served = told(onnx_folder(**{"config.json": b'{"model_type": "xlm-roberta", "max_position_embeddings": 514}'}))
    assert served.context_tokens == 512


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"tokenizer.json": None}, "tokenizer.json is missing"),
        ({"tokenizer.json": b"no json"}, "tokenizer.json is no JSON"),
        ({"config.json": None}, "config.json is missing"),
        ({"config.json": b"[1]"}, "config.json holds no JSON object"),
        ({"config.json": b'{"hidden_size": 8}'}, "config.json does not say max_position_embeddings"),
        ({"model.onnx": encoder(inputs=("input_ids", "pixels"))}, "takes input_ids, pixels; an encoder takes"),
        ({"model.onnx": encoder(kind=FLOAT)}, "takes input_ids as FP32; INT64 is given"),
        (
            {"model.onnx": encoder(output=tensor_info("logits", FLOAT, ["batch", 2]))},
            "'logits', FP32 with 2 dimensions; the last hidden state is expected",
        ),
        ({"model.onnx": encoder(operators="acme.ops")}, "needs operators of 'acme.ops'"),
        ({"model.onnx": None, "a.onnx": encoder(), "b.onnx": encoder()}, "2 ONNX files are here (a.onnx, b.onnx)"),
        ({"modules.json": b'[{"type": "acme.Pruner"}]'}, "its vectors pass a module 'Pruner'"),
        ({"modules.json": b"7"}, "modules.json holds no list of modules"),
        ({"1_Pooling/config.json": b'{"pooling_mode_lasttoken": true}'}, "lasttoken"),
    ],
)
def test_what_the_onnx_engine_does_not_do_is_named(told: Any, changes: dict[str, Any], word: str) -> None:
    assert word in refused(told, onnx_folder(**changes))


def test_a_triton_repository_takes_raw_tensors_on_managed_compute(told: Any) -> None:
    served = told({"double/config.pbtxt": TRITON.encode(), "double/1/model.onnx": doubling_model()})
    assert (served.tasks, served.deployment_options) == ((), ("MANAGED",))
    parameters = served.serving["parameters"]
    assert served.serving["engine"] == "tensors"
    assert parameters["model_file"] == "double/1/model.onnx"
    assert json.loads(parameters["inputs"]) == [{"name": "X", "type": "FP32", "dims": [3]}]
    assert parameters["max_batch_size"] == "8"


def test_the_highest_version_is_served_and_tensors_may_be_left_out(told: Any) -> None:
    """As Triton does by itself: the model says its own tensors."""
    files = {
        "config.pbtxt": b'platform: "onnxruntime_onnx" max_batch_size: 2',
        "2/model.onnx": doubling_model(),
        "10/model.onnx": doubling_model(),
    }
    served = told(files)
    assert served.serving["parameters"]["model_file"] == "10/model.onnx"
    assert json.loads(served.serving["parameters"]["outputs"]) == [{"name": "Y", "type": "FP32", "dims": [3]}]


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ('backend: "python"', "backend 'python', code of its own, which is never run here"),
        ('backend: "tensorrtllm"', "backend 'tensorrtllm', which no engine here runs"),
        ("{", "is no configuration of Triton"),
        (TRITON + 'name: "other"', "names the model 'other', and its folder does not"),
        (TRITON + "ensemble_scheduling { }", "sets ensemble_scheduling, which nothing here does"),
        (TRITON + "sequence_batching { }", "sets sequence_batching"),
        (TRITON + "model_transaction_policy { decoupled: true }", "sets model_transaction_policy.decoupled"),
        (TRITON + "instance_group [ { kind: KIND_GPU } ]", "instance_group on accelerators"),
        (TRITON + "version_policy { all { } }", "version_policy other than the latest"),
        (TRITON + 'runtime: "libmine.so"', "sets runtime"),
        (TRITON.replace("max_batch_size: 8", "max_batch_size: 5000"), "0 to 4096 are allowed"),
        (TRITON.replace('"X"', '"Z"'), "names 'Z' among the inputs"),
        (TRITON.replace("TYPE_FP32 dims: [ 3 ] } ]\noutput", "TYPE_INT8 dims: [ 3 ] } ]\noutput"), "'X' is INT8"),
        (TRITON.replace("[ 3 ]", "[ 3, 1 ]"), "gives 'X' the shape [3, 1] after the batch"),
        (TRITON.replace("[ 3 ]", "[ 0 ]"), "has the shape [0]"),
        (TRITON.replace("[ 3 ]", "[ 2000000 ]"), "has 2000000 items in one request; 1048576 are served"),
        (TRITON + 'default_model_filename: "m.onnx"', "double/1/m.onnx is missing"),
    ],
)
def test_what_is_not_served_of_triton_is_named(told: Any, config: str, word: str) -> None:
    assert word in refused(told, {"double/config.pbtxt": config.encode(), "double/1/model.onnx": doubling_model()})


def test_one_model_a_repository(told: Any) -> None:
    files = {f"{name}/config.pbtxt": TRITON.encode() for name in ("a", "b")}
    assert "has 2 models; a version has one" in refused(told, files)


def test_an_encoder_of_a_triton_repository_takes_texts_both_ways(told: Any) -> None:
    """What is beside the model of the newest version counts, and all else is as in a folder."""
    served = told(encoder_repository(**{"sentence_bert_config.json": b'{"max_seq_length": 64}'}), task="embeddings")
    assert (served.tasks, served.price_class) == (("EMBEDDINGS",), "embeddings")
    assert served.deployment_options == ("MANAGED", "SERVERLESS")
    assert served.serving["engine"] == "onnx"
    assert served.serving["parameters"] == {
        "context_tokens": "64",
        "pooling": "mean",
        "model_file": "minilm/10/model.onnx",
        "tokenizer_file": "minilm/10/tokenizer.json",
    }
    assert told(encoder_repository()).tasks == ()
    without_newest = told(encoder_repository(**{"model.onnx": None}), task="embeddings")
    assert without_newest.serving["parameters"]["model_file"] == "minilm/9/model.onnx"


@pytest.mark.parametrize(
    ("changes", "task", "word"),
    [
        ({"tokenizer.json": None}, "embeddings", "tokenizer.json is missing"),
        ({"model.onnx": doubling_model()}, "embeddings", "model.onnx takes X; an encoder takes"),
        ({}, "chat", "parameter task is 'chat'; embeddings is known"),
    ],
)
def test_a_repository_without_an_encoder_takes_no_texts(
    told: Any, changes: dict[str, Any], task: str, word: str
) -> None:
    assert word in refused(told, encoder_repository(**changes), task=task)


@pytest.mark.parametrize("contents", [{"notes.txt": b"words"}, {"m.safetensors": b"\x02\0\0\0\0\0\0\0{}"}])
def test_files_of_no_known_kind_are_refused(told: Any, contents: dict[str, bytes]) -> None:
    """Safetensors alone are none of the kinds, and are said to be there."""
    assert "none that can be registered" in refused(told, contents)


def test_versions_are_counted() -> None:
    assert next_version_id([]) == "1"
    assert next_version_id(["1", "9", "10", "2024-10", "beta"]) == "11"


@pytest.mark.parametrize("version_id", ["", "a/b", "-1", "latest", "stable", "x" * 33])
def test_version_ids_that_are_refused(version_id: str) -> None:
    with pytest.raises(InvalidArgument):
        check_version_id(version_id, {"stable": "1"})


def test_labels_move_one_by_one() -> None:
    labels = with_labels({"stable": "1", "old": "1"}, {"stable": "2", "old": "", "next": "3"}, ["1", "2", "3"], "m")
    assert labels == {"next": "3", "stable": "2"}


@pytest.mark.parametrize(
    "changes",
    [
        {"latest": "1"},
        {"1": "1"},
        {"Upper": "1"},
        {"stable": "4"},
        {f"label-{number}": "1" for number in range(51)},
    ],
)
def test_labels_that_are_refused(changes: dict[str, str]) -> None:
    with pytest.raises(Problem) as caught:
        with_labels({}, changes, ["1"], "m")
    assert isinstance(caught.value, (LabelInvalid, InvalidArgument))


def test_a_version_named_like_a_label_would_be_hidden() -> None:
    with pytest.raises(LabelInvalid, match="'beta' is a version of m"):
        with_labels({}, {"beta": "1"}, ["1", "beta"], "m")


@pytest.mark.parametrize("words", [{"summary": "x" * 501}, {"display_name": "a\nb"}, {"license_id": "\x1b[2J"}])
def test_words_fit_on_a_line(words: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument):
        check_words(**{"display_name": "", "summary": "", "license_id": "", **words})
