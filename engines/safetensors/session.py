"""An encoder ready to run: its graph made from the configuration, its weights mapped where they lie."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from engines.onnx.embedding import Vectors, session_options
from engines.safetensors.encoders import encoder_graph, read_encoder
from engines.safetensors.tensors import read_tensors


class SafetensorsEncoder:
    """An encoder of BERT's kind.

    Args:
        model_file: Its safetensors.
        config_file: Its `config.json`.
        threads: Threads of one run.

    Raises:
        TensorsInvalid: the weights are not what their header says.
        EncoderUnsupported: another kind of model.
    """

    def __init__(self, model_file: Path, config_file: Path, *, threads: int) -> None:
        # Weights of an instance are links; ONNX Runtime takes outside weights only from the folder it is told.
        weights = model_file.resolve()
        encoder = read_encoder(json.loads(config_file.read_text()))
        options = session_options(threads)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights.parent))
        graph = encoder_graph(encoder, read_tensors(weights), weights.name)
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._position_first = encoder.position_first

    def __call__(self, ids: Sequence[int]) -> Vectors:
        tokens = np.asarray(ids, dtype=np.int64)
        positions = np.arange(len(ids), dtype=np.int64) + self._position_first
        hidden: Vectors = self._session.run(None, {"input_ids": tokens, "position_ids": positions})[0]
        return hidden
