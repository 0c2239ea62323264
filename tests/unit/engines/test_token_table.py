"""Vectors looked up where they lie in their file."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from engines.safetensors.tensors import TensorsInvalid
from engines.wordvectors.table import TokenTable


def write(path: Path, values: np.ndarray, dtype: str, name: str = "table") -> Path:
    """A safetensors file with one tensor."""
    content = values.tobytes()
    header = json.dumps({name: {"dtype": dtype, "shape": values.shape, "data_offsets": [0, len(content)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content)
    return path


@pytest.mark.parametrize(("dtype", "stored"), [("F16", "<f2"), ("F32", "<f4")])
def test_rows_come_back_as_they_are_stored(tmp_path: Path, dtype: str, stored: str) -> None:
    """Order and repetition kept, in float32."""
    values = np.arange(12).reshape(4, 3).astype(stored)
    rows = TokenTable(write(tmp_path / "t.safetensors", values, dtype), "table")([2, 0, 2])
    assert (rows.dtype, rows.tolist()) == (np.float32, [[6, 7, 8], [0, 1, 2], [6, 7, 8]])


@pytest.mark.parametrize(
    ("values", "dtype", "name"),
    [
        (np.zeros((2, 2), "<f4"), "F32", "other"),
        (np.zeros((2, 2), "<i4"), "I32", "table"),
        (np.zeros(4, "<f4"), "F32", "table"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, values: np.ndarray, dtype: str, name: str) -> None:
    with pytest.raises(TensorsInvalid, match="no table 'table' of float16 or float32"):
        TokenTable(write(tmp_path / "t.safetensors", values, dtype, name), "table")
