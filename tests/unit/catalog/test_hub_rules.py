"""Which models of a hub are taken in, and which engine runs them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engines.architectures import RUN_BY
from services.catalog.domain.hub import (
    Gate,
    GgufFacts,
    Repository,
    RepositoryFile,
    Unrunnable,
    gated_detail,
    gguf_of,
    obstacles,
    safetensors_of,
    serve_encoder,
    serve_gguf,
)

MIB = 1 << 20


def file(path: str, size_bytes: int = 1) -> RepositoryFile:
    return RepositoryFile(path, size_bytes, "", "")


def repository(*paths: str, **changes: Any) -> Repository:
    given = Repository(
        id="acme/model",
        revision="a" * 40,
        library="sentence-transformers",
        libraries={"sentence-transformers"},
        task="sentence-similarity",
        architectures=("BertModel",),
        files=tuple(map(file, paths or ("config.json", "model.safetensors", "tokenizer.json"))),
    )
    return replace(given, **changes)


GGUF_FACTS = GgufFacts(
    architecture="llama",
    context_tokens=8192,
    chat_template="{{ messages }}",
    bos_token="<s>",
    eos_token="</s>",
    state_bytes_per_token=1000,
)


def test_an_open_encoder_is_eligible() -> None:
    assert list(obstacles(repository())) == []


@pytest.mark.parametrize(
    ("given", "reason", "detail"),
    [
        (repository(library="timm", libraries=set()), "LIBRARY_NOT_SUPPORTED", "its library is timm"),
        (repository(library="", libraries=set()), "LIBRARY_NOT_SUPPORTED", "its library is not stated"),
        (repository(task="text-to-image"), "TASK_NOT_SUPPORTED", "its task is text-to-image"),
        (repository(remote_code=True), "REMOTE_CODE", "code of its own"),
        (repository("config.json", "pytorch_model.bin"), "NO_SAFE_WEIGHTS", "no safetensors and no GGUF"),
        (repository(private=True), "PRIVATE", "it is private"),
        (repository(disabled=True), "DISABLED", "disabled"),
        (repository(id="acme/_model"), "NAME_NOT_SUPPORTED", "it is called 'acme/_model'"),
        (repository(id="gpt2"), "NAME_NOT_SUPPORTED", "it is called 'gpt2'"),
    ],
)
def test_each_obstacle_has_a_reason_and_says_what_is_taken(given: Repository, reason: str, detail: str) -> None:
    (found,) = obstacles(given)
    assert found.reason == reason
    assert detail in found.detail


def test_every_obstacle_is_named_at_once() -> None:
    found = obstacles(repository("pytorch_model.bin", task="", remote_code=True))
    assert [one.reason for one in found] == ["TASK_NOT_SUPPORTED", "REMOTE_CODE", "NO_SAFE_WEIGHTS"]


def test_a_gate_is_no_obstacle_and_says_what_it_takes() -> None:
    given = repository(gate=Gate.MANUAL)
    assert list(obstacles(given)) == []
    assert gated_detail(given, "https://hub/acme/model").startswith(
        "gated: its owner admits people one by one at https"
    )
    assert "its terms must be accepted" in gated_detail(repository(gate=Gate.AUTOMATIC), "")


def test_the_best_quantisation_is_taken() -> None:
    names = ["m.Q2_K.gguf", "m-f16.gguf", "m.Q8_0.gguf", "m-q4_k_m.gguf", "mmproj-Q4_0.gguf", "odd.gguf"]
    ranked = []
    while (found := gguf_of(repository(*names))) is not None:
        assert isinstance(found, RepositoryFile)
        ranked.append(found.path)
        names.remove(found.path)
    assert ranked == ["m-q4_k_m.gguf", "m.Q8_0.gguf", "m.Q2_K.gguf", "m-f16.gguf", "odd.gguf"]


def test_a_named_file_is_taken_or_missed() -> None:
    given = repository("a.Q4_0.gguf", "a.Q8_0.gguf")
    assert gguf_of(given, "a.Q8_0.gguf") == file("a.Q8_0.gguf")
    assert gguf_of(given, "b.gguf") == Unrunnable("it has no GGUF file 'b.gguf'; it has a.Q4_0.gguf, a.Q8_0.gguf")


def test_a_gguf_in_parts_is_not_run() -> None:
    found = gguf_of(repository("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"))
    assert found == Unrunnable("its GGUF is cut into 2 parts; whole files are run")


def test_the_main_folder_of_a_safetensors_model_is_taken() -> None:
    given = repository(
        "README.md", "config.json", "model.safetensors", "onnx/model.onnx", "sub/x.safetensors", "vocab.txt"
    )
    assert [one.path for one in safetensors_of(given)] == ["config.json", "model.safetensors", "vocab.txt"]


def test_a_gguf_is_served_within_the_limit_and_its_memory_is_counted() -> None:
    served = serve_gguf(GGUF_FACTS, file("m.gguf", 800 * MIB), RUN_BY, context_tokens_max=2048, slots=8)
    assert isinstance(served, dict)
    assert (served["engine"], served["context_tokens"], served["chat_template"]) == ("llamacpp", 2048, "{{ messages }}")
    assert served["parameters"] == {"context_tokens": "2048", "slots": "8"}
    # The file, an eighth of it, 8 slots of 2048 tokens of 1,000 bytes, 256 MiB; in whole 64 MiB.
    assert served["min_memory_bytes"] == 1216 * MIB


def test_a_short_context_stays_short() -> None:
    served = serve_gguf(
        replace(GGUF_FACTS, context_tokens=512), file("m.gguf"), RUN_BY, context_tokens_max=2048, slots=8
    )
    assert isinstance(served, dict)
    assert served["context_tokens"] == 512


def test_an_architecture_that_no_engine_runs_is_named_with_those_that_are() -> None:
    found = serve_gguf(replace(GGUF_FACTS, architecture="clip"), file("m"), RUN_BY, context_tokens_max=1, slots=1)
    assert isinstance(found, Unrunnable)
    assert found.architecture == "clip"
    assert found.detail.startswith("architecture 'clip' is run by no engine here: llamacpp runs arcee, baichuan")
    assert "safetensors runs BertForMaskedLM, BertModel" in found.detail


ENCODER: dict[str, Any] = {"hidden_size": 384}
MEAN = {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
MODULES = [{"type": f"sentence_transformers.models.{kind}"} for kind in ("Transformer", "Pooling", "Normalize")]


def encoder(given: Repository, modules: list[dict[str, str]], pooling: dict[str, Any]) -> dict[str, Any] | Unrunnable:
    return serve_encoder(given, ENCODER, modules, pooling, RUN_BY, context_tokens=256)


def test_an_encoder_is_served_as_its_recipe_says() -> None:
    served = encoder(repository(), MODULES, MEAN)
    assert isinstance(served, dict)
    assert (served["engine"], served["embedding_dimensions"], served["context_tokens"]) == ("safetensors", 384, 256)
    assert served["parameters"] == {"context_tokens": "256", "pooling": "mean"}


@pytest.mark.parametrize(("mode", "way"), [("pooling_mode_cls_token", "cls"), ("pooling_mode_max_tokens", "max")])
def test_the_other_poolings(mode: str, way: str) -> None:
    served = encoder(repository(), MODULES, {mode: True, "pooling_mode_mean_tokens": False})
    assert isinstance(served, dict)
    assert served["parameters"]["pooling"] == way


def test_an_encoder_without_a_recipe_is_averaged() -> None:
    served = encoder(repository(), [], {})
    assert isinstance(served, dict)
    assert served["parameters"]["pooling"] == "mean"


@pytest.mark.parametrize(
    ("given", "modules", "pooling", "detail"),
    [
        (repository(architectures=("MPNetModel",)), MODULES, MEAN, "architecture 'MPNetModel' is run by no engine"),
        (repository(architectures=()), MODULES, MEAN, "architecture 'not stated'"),
        (repository("config.json", "model.safetensors"), MODULES, MEAN, "it has no tokenizer.json"),
        (repository(), [*MODULES, {"type": "x.Dense"}], MEAN, "pass a module 'Dense'"),
        (repository(), MODULES, {"pooling_mode_lasttoken": True}, "pooled by pooling_mode_lasttoken"),
        (
            repository(),
            MODULES,
            {**MEAN, "pooling_mode_cls_token": True},
            "pooled by pooling_mode_cls_token, pooling_mode_mean",
        ),
    ],
)
def test_what_the_engine_would_compute_otherwise_is_not_run(
    given: Repository, modules: list[dict[str, str]], pooling: dict[str, Any], detail: str
) -> None:
    found = encoder(given, modules, pooling)
    assert isinstance(found, Unrunnable)
    assert detail in found.detail
