"""Triton Python-backend model that embeds texts by a table of token vectors; tensors: README.md of the onnx engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engines.onnx.model import TritonPythonModel as OnnxModel
from engines.wordvectors.table import TokenTable


class TritonPythonModel(OnnxModel):
    """The onnx engine with a table in the place of a network."""

    def _encoder(self, folder: Path, given: dict[str, str], *, threads: int) -> Any:
        return TokenTable(folder / given["model_file"], given["tensor"])
