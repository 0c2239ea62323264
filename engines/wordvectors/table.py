"""A vector for each token, looked up where it lies in its file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engines.onnx.embedding import Vectors
from engines.safetensors.tensors import TensorsInvalid, read_tensors

_TYPES = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}


class TokenTable:
    """The static embeddings of a vocabulary.

    Args:
        file: A `.safetensors` file.
        tensor: Name of the table in it, F16 or F32 [V, D]; row N belongs to token N.

    Raises:
        TensorsInvalid: there is no such table.
    """

    def __init__(self, file: Path, tensor: str) -> None:
        found = read_tensors(file).get(tensor)
        if found is None or found.dtype not in _TYPES or len(found.shape) != 2:
            raise TensorsInvalid(f"{file.name} has no table {tensor!r} of float16 or float32, [V, D]")
        # Mapped, not read: pages come in as their tokens are asked for.
        self._rows = np.memmap(file, dtype=_TYPES[found.dtype], mode="r", offset=found.offset, shape=found.shape)

    def __call__(self, ids: Sequence[int]) -> Vectors:
        """FP32 [S, D]."""
        return self._rows[list(ids)].astype(np.float32)
