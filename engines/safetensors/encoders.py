"""Encoders of BERT's kind as ONNX graphs over their safetensors.

The families differ in the names of their weights, of their configuration's fields, and in where positions begin; the
arithmetic is one: embeddings, then layers of attention and a feed-forward part, each added and normalised.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines.safetensors.onnx_wire import BFLOAT16, FLOAT, FLOAT16, INT64, Graph
from engines.safetensors.tensors import Tensor

_DATA_TYPES = {"F32": FLOAT, "F16": FLOAT16, "BF16": BFLOAT16}
_ACTIVATIONS = {"gelu": ("Gelu", {"approximate": "none"}), "gelu_new": ("Gelu", {"approximate": "tanh"})}
_ACTIVATIONS |= {"gelu_pytorch_tanh": _ACTIVATIONS["gelu_new"], "relu": ("Relu", {})}
# What older exports call the weight and bias of a normalisation.
_OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}
_WORDS = "embeddings.word_embeddings.weight"


class EncoderUnsupported(Exception):
    """A model this engine does not run; the text names what it is and what is run."""


@dataclass(frozen=True)
class _Names:
    """What a family calls its weights; a layer's begin with `layer` and its number."""

    layer: str
    query: str
    key: str
    value: str
    mixed: str
    mixed_norm: str
    inner: str
    outer: str
    outer_norm: str


_BERT = _Names(
    layer="encoder.layer.",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    mixed="attention.output.dense",
    mixed_norm="attention.output.LayerNorm",
    inner="intermediate.dense",
    outer="output.dense",
    outer_norm="output.LayerNorm",
)
_DISTILBERT = _Names(
    layer="transformer.layer.",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    mixed="attention.out_lin",
    mixed_norm="sa_layer_norm",
    inner="ffn.lin1",
    outer="ffn.lin2",
    outer_norm="output_layer_norm",
)


@dataclass(frozen=True)
class Encoder:
    """The shape of one encoder, from its `config.json`.

    Attributes:
        position_first: Position of the first token; RoBERTa's kind counts on from the padding token.
        positions: Longest input in tokens.
    """

    names: _Names
    layers: int
    heads: int
    width: int
    epsilon: float
    activation: str
    position_first: int
    positions: int


def read_encoder(config: Mapping[str, Any]) -> Encoder:
    """The encoder a `config.json` describes.

    Raises:
        EncoderUnsupported: another family, activation or kind of positions.
    """
    family = str(config.get("model_type", ""))
    if family not in ("bert", "roberta", "xlm-roberta", "distilbert"):
        raise EncoderUnsupported(f"model type {family!r} is not run; bert, roberta, xlm-roberta and distilbert are")
    if (kind := config.get("position_embedding_type", "absolute")) != "absolute":
        raise EncoderUnsupported(f"position embeddings of type {kind!r} are not run; absolute ones are")
    distilled = family == "distilbert"
    activation = str(config["activation" if distilled else "hidden_act"])
    if activation not in _ACTIVATIONS:
        raise EncoderUnsupported(f"activation {activation!r} is not run; {', '.join(_ACTIVATIONS)} are")
    first = int(config.get("pad_token_id") or 0) + 1 if family in ("roberta", "xlm-roberta") else 0
    return Encoder(
        names=_DISTILBERT if distilled else _BERT,
        layers=int(config["n_layers" if distilled else "num_hidden_layers"]),
        heads=int(config["n_heads" if distilled else "num_attention_heads"]),
        width=int(config["dim" if distilled else "hidden_size"]),
        epsilon=1e-12 if distilled else float(config.get("layer_norm_eps", 1e-12)),
        activation=activation,
        position_first=first,
        positions=int(config["max_position_embeddings"]) - first,
    )


def encoder_graph(encoder: Encoder, tensors: Mapping[str, Tensor], file: str) -> bytes:
    """An ONNX model of the encoder.

    Shapes:
        in   input_ids     INT64  [S]
        in   position_ids  INT64  [S]
        out  hidden        FP32   [S, width]   the last layer's

    One text has no batch dimension, so every weight multiplies as it lies in the file.

    Args:
        file: Name of the safetensors file, relative to the folder ONNX Runtime is told.

    Raises:
        EncoderUnsupported: a weight is missing or of a type that is not run.
    """
    return _Builder(encoder, tensors, file).build()


class _Builder:
    def __init__(self, encoder: Encoder, tensors: Mapping[str, Tensor], file: str) -> None:
        self._encoder = encoder
        self._graph = Graph()
        self._file = file
        # Models that were trained with a head keep the encoder under its family's name, such as "bert.".
        prefix = next((name.removesuffix(_WORDS) for name in tensors if name.endswith(_WORDS)), "")
        self._tensors = {_modern(name.removeprefix(prefix)): tensor for name, tensor in tensors.items()}
        width = encoder.width
        self._split = self._graph.integers(-1, encoder.heads, width // encoder.heads)
        self._join = self._graph.integers(-1, width)
        self._scale = self._graph.floats(1 / math.sqrt(width // encoder.heads))

    def build(self) -> bytes:
        graph, encoder = self._graph, self._encoder
        ids = graph.input("input_ids", INT64, ["S"])
        positions = graph.input("position_ids", INT64, ["S"])
        x = graph.node("Gather", self._weight(_WORDS), ids)
        x = graph.node("Add", x, graph.node("Gather", self._weight("embeddings.position_embeddings.weight"), positions))
        if "embeddings.token_type_embeddings.weight" in self._tensors:
            kinds = self._weight("embeddings.token_type_embeddings.weight")
            x = graph.node("Add", x, graph.node("Gather", kinds, graph.integers(0)))
        x = self._norm(x, "embeddings.LayerNorm")
        for layer in range(encoder.layers):
            x = self._layer(x, f"{encoder.names.layer}{layer}.")
        graph.output(graph.node("Identity", x), FLOAT, ["S", encoder.width])
        return graph.build()

    def _layer(self, x: str, at: str) -> str:
        graph, names = self._graph, self._encoder.names
        query = self._heads(self._linear(x, at + names.query), [1, 0, 2])
        key = self._heads(self._linear(x, at + names.key), [1, 2, 0])
        value = self._heads(self._linear(x, at + names.value), [1, 0, 2])
        scores = graph.node("Mul", graph.node("MatMul", query, key), self._scale)
        mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), value)
        mixed = graph.node("Reshape", graph.node("Transpose", mixed, perm=[1, 0, 2]), self._join)
        x = self._norm(graph.node("Add", x, self._linear(mixed, at + names.mixed)), at + names.mixed_norm)
        operator, attributes = _ACTIVATIONS[self._encoder.activation]
        inner = graph.node(operator, self._linear(x, at + names.inner), **attributes)
        return self._norm(graph.node("Add", x, self._linear(inner, at + names.outer)), at + names.outer_norm)

    def _heads(self, x: str, order: list[int]) -> str:
        return self._graph.node("Transpose", self._graph.node("Reshape", x, self._split), perm=order)

    def _linear(self, x: str, name: str) -> str:
        return self._graph.node("Gemm", x, self._weight(f"{name}.weight"), self._weight(f"{name}.bias"), transB=1)

    def _norm(self, x: str, name: str) -> str:
        weight, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return self._graph.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=self._encoder.epsilon)

    def _weight(self, name: str) -> str:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise EncoderUnsupported(f"the weights have no tensor {name!r}")
        if tensor.dtype not in _DATA_TYPES:
            raise EncoderUnsupported(f"tensor {name!r} has type {tensor.dtype}; {', '.join(_DATA_TYPES)} are run")
        data_type = _DATA_TYPES[tensor.dtype]
        found = self._graph.weight(name, data_type, tensor.shape, self._file, tensor.offset, tensor.size)
        return found if data_type == FLOAT else self._graph.node("Cast", found, to=FLOAT)


def _modern(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
