"""Encoders of a few thousand random weights, one a family, alike wherever they are made."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = dict[str, NDArray[np.float32]]
IDS = [3, 17, 9, 30, 4]
_WIDTH, _INNER, _HEADS, _LAYERS, _WORDS, _POSITIONS = 16, 24, 2, 2, 40, 24

_BERT_LIKE = {
    "hidden_size": _WIDTH,
    "intermediate_size": _INNER,
    "num_attention_heads": _HEADS,
    "num_hidden_layers": _LAYERS,
    "vocab_size": _WORDS,
    "max_position_embeddings": _POSITIONS,
    "layer_norm_eps": 1e-5,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {**_BERT_LIKE, "model_type": "bert", "hidden_act": "gelu", "type_vocab_size": 2, "pad_token_id": 0},
    "roberta": {**_BERT_LIKE, "model_type": "roberta", "hidden_act": "gelu", "type_vocab_size": 1, "pad_token_id": 1},
    "xlm-roberta": {
        **_BERT_LIKE,
        "model_type": "xlm-roberta",
        "hidden_act": "gelu_new",
        "type_vocab_size": 1,
        "pad_token_id": 1,
    },
    "distilbert": {
        "model_type": "distilbert",
        "activation": "gelu",
        "dim": _WIDTH,
        "hidden_dim": _INNER,
        "n_heads": _HEADS,
        "n_layers": _LAYERS,
        "vocab_size": _WORDS,
        "max_position_embeddings": _POSITIONS,
        "pad_token_id": 0,
    },
}
_BERT_LAYER = {
    "attention.self.query": (_WIDTH, _WIDTH),
    "attention.self.key": (_WIDTH, _WIDTH),
    "attention.self.value": (_WIDTH, _WIDTH),
    "attention.output.dense": (_WIDTH, _WIDTH),
    "attention.output.LayerNorm": (_WIDTH,),
    "intermediate.dense": (_INNER, _WIDTH),
    "output.dense": (_WIDTH, _INNER),
    "output.LayerNorm": (_WIDTH,),
}
_DISTILBERT_LAYER = {
    "attention.q_lin": (_WIDTH, _WIDTH),
    "attention.k_lin": (_WIDTH, _WIDTH),
    "attention.v_lin": (_WIDTH, _WIDTH),
    "attention.out_lin": (_WIDTH, _WIDTH),
    "sa_layer_norm": (_WIDTH,),
    "ffn.lin1": (_INNER, _WIDTH),
    "ffn.lin2": (_WIDTH, _INNER),
    "output_layer_norm": (_WIDTH,),
}


def weights(family: str) -> Weights:
    """The weights of a family's encoder under the names that its checkpoints have."""
    random = np.random.RandomState(7)
    config = CONFIGS[family]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (_WORDS, _WIDTH),
        "embeddings.position_embeddings.weight": (_POSITIONS, _WIDTH),
    }
    if "type_vocab_size" in config:
        shapes["embeddings.token_type_embeddings.weight"] = (config["type_vocab_size"], _WIDTH)
    modules = {"embeddings.LayerNorm": (_WIDTH,)}
    at, parts = ("transformer.layer", _DISTILBERT_LAYER) if family == "distilbert" else ("encoder.layer", _BERT_LAYER)
    modules |= {f"{at}.{layer}.{part}": shape for layer in range(_LAYERS) for part, shape in parts.items()}
    for module, shape in modules.items():
        shapes |= {f"{module}.weight": shape, f"{module}.bias": shape[:1]}
    # Every number differs from what training begins with, so that none can be left out unnoticed.
    return {name: random.normal(0.1, 0.6, shape).astype(np.float32) for name, shape in shapes.items()}
