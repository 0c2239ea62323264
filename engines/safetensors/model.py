"""Triton Python-backend model that embeds texts with an encoder's safetensors; tensors: README.md of the onnx engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engines.onnx.model import TritonPythonModel as OnnxModel
from engines.safetensors.session import SafetensorsEncoder


class TritonPythonModel(OnnxModel):
    """The onnx engine with its encoder made from safetensors."""

    def _encoder(self, folder: Path, given: dict[str, str], *, threads: int) -> Any:
        config = folder / given.get("config_file", "config.json")
        return SafetensorsEncoder(folder / given["model_file"], config, threads=threads)
