"""Sentence embeddings: tokens in, mean over the text's tokens, unit length out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tokenizers
from numpy.typing import NDArray

from engines.refusals import prompt_too_long


class Embedder:
    """A BERT-like encoder with its tokenizer.

    Args:
        model_file: ONNX model with inputs `input_ids`, `attention_mask`, optionally `token_type_ids` (INT64, [B, S]),
            whose first output is the last hidden state, FP32 [B, S, D].
        tokenizer_file: The model's `tokenizer.json`. Its own padding and truncation are switched off.
        context_tokens: Longest text in tokens, special tokens included.
        threads: Threads of one run.
    """

    def __init__(self, model_file: Path, tokenizer_file: Path, *, context_tokens: int, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads take the core from the process that waits for the answer.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(model_file), options, providers=["CPUExecutionProvider"])
        self._inputs = {tensor.name for tensor in self._session.get_inputs()}
        self._output = self._session.get_outputs()[0].name
        self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._context_tokens = context_tokens

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text, special tokens included.

        Raises:
            Refusal: PROMPT_TOO_LONG with the text's place (`item`, from 0); nothing is cut silently.
        """
        encoded = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        for item, ids in enumerate(encoded):
            if len(ids) > self._context_tokens:
                raise prompt_too_long(len(ids), self._context_tokens, item=item)
        return encoded

    def embed(self, token_ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Embed tokenized texts.

        Each text runs alone: no padding to pay for, and its vector cannot depend on its neighbours.

        Returns:
            FP32 [B, D], rows have unit L2 norm, order kept.
        """
        return np.stack([self._embed_one(ids) for ids in token_ids])

    def _embed_one(self, ids: Sequence[int]) -> NDArray[np.float32]:
        row = np.asarray([ids], dtype=np.int64)
        every = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
        feed: dict[str, Any] = {name: every[name] for name in self._inputs}
        # Without padding the mask is all ones, so the masked mean is the mean.
        mean: NDArray[np.float32] = self._session.run([self._output], feed)[0][0].mean(axis=0)
        return mean / max(float(np.linalg.norm(mean)), 1e-12)
