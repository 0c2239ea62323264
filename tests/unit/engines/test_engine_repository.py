"""The model repository of an instance: linked, named, complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.repository import build_repository, engines


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.gguf"
    path.write_bytes(b"weights")
    return path


def test_weights_are_linked_and_the_engine_comes_along(tmp_path: Path, weights: Path) -> None:
    build_repository(tmp_path / "repository", "model", "llamacpp", {"w.gguf": weights}, {"slots": "2"})
    version = tmp_path / "repository" / "model" / "1"
    assert (version / "w.gguf").is_symlink()
    assert (version / "w.gguf").read_bytes() == b"weights"
    assert (version / "model.py").is_file()
    assert (version / "engines" / "refusals.py").is_file()


def test_the_configuration_holds_name_parameters_and_weights(tmp_path: Path, weights: Path) -> None:
    build_repository(tmp_path, "model", "llamacpp", {"w.gguf": weights}, {"slots": "2", "note": 'a "quoted" \\ text'})
    config = (tmp_path / "model" / "config.pbtxt").read_text()
    assert 'name: "model"' in config
    assert 'parameters { key: "slots" value: { string_value: "2" } }' in config
    assert 'parameters { key: "model_file" value: { string_value: "w.gguf" } }' in config
    assert r"a \"quoted\" \\ text" in config
    assert "$" not in config


def test_building_again_gives_the_same(tmp_path: Path, weights: Path) -> None:
    for _ in range(2):
        build_repository(tmp_path, "model", "llamacpp", {"w.gguf": weights}, {})
    assert sorted(path.name for path in (tmp_path / "model" / "1").iterdir()) == ["engines", "model.py", "w.gguf"]


@pytest.mark.parametrize(
    ("engine", "name", "artifacts", "message"),
    [
        ("vllm", "model", {}, 'engine "vllm" is unknown'),
        ("llamacpp", "model", {}, "needs one .gguf artifact and got 0"),
        ("llamacpp", "../model", {}, "no plain file name"),
        ("noop", "model", {"../b": "weights.gguf"}, "no plain file name"),
        ("noop", "model", {"a//b": "weights.gguf"}, "no plain file name"),
        ("noop", "model", {"engines/x": "weights.gguf"}, "no plain file name"),
        ("noop", "model", {"model.py": "weights.gguf"}, "no plain file name"),
    ],
)
def test_what_cannot_be_built_is_refused(
    tmp_path: Path, weights: Path, engine: str, name: str, artifacts: dict[str, str], message: str
) -> None:
    given = {artifact: tmp_path / path for artifact, path in artifacts.items()}
    with pytest.raises(ValueError, match=message):
        build_repository(tmp_path / "repository", name, engine, given, {})


def test_a_missing_artifact_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^artifact 'gone\.gguf' is not"):
        build_repository(tmp_path, "model", "llamacpp", {"w.gguf": tmp_path / "gone.gguf"}, {})


def test_the_engines_there_are() -> None:
    assert engines() == ["images", "llamacpp", "noop", "onnx", "safetensors", "tensors", "whisper", "wordvectors"]
