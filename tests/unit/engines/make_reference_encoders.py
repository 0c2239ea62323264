"""Writes reference_encoders.json: what Hugging Face's own implementations make of the tiny encoders.

Run by hand from the root of the repository, with a Python that has transformers 4.49, flax and jax:
`python -m tests.unit.engines.make_reference_encoders`. It shares no arithmetic with the engine under test.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from flax.traverse_util import unflatten_dict

from tests.unit.engines.tiny_encoders import CONFIGS, IDS, weights

_MODELS = {
    "bert": (transformers.BertConfig, transformers.FlaxBertModel),
    "roberta": (transformers.RobertaConfig, transformers.FlaxRobertaModel),
    "xlm-roberta": (transformers.XLMRobertaConfig, transformers.FlaxXLMRobertaModel),
    "distilbert": (transformers.DistilBertConfig, transformers.FlaxDistilBertModel),
}


def hidden(family: str) -> Any:
    config_type, model_type = _MODELS[family]
    options = {} if family == "distilbert" else {"add_pooling_layer": False}
    model = model_type(config_type(**CONFIGS[family]), _do_init=False, **options)
    flat = {}
    for name, value in weights(family).items():
        *path, kind = name.split(".")
        if kind == "weight" and path[-1].endswith("_embeddings"):
            kind = "embedding"
        elif kind == "weight" and value.ndim == 2:
            kind, value = "kernel", value.T
        elif kind == "weight":
            kind = "scale"
        flat[(*path, kind)] = value
    answer = model(np.asarray([IDS]), params=unflatten_dict(flat))
    return np.asarray(answer.last_hidden_state)[0]


def main() -> None:
    reference = {family: [[round(float(v), 6) for v in row] for row in hidden(family)] for family in CONFIGS}
    Path(__file__).with_name("reference_encoders.json").write_text(json.dumps(reference) + "\n")


if __name__ == "__main__":
    main()
