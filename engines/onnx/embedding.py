"""Sentence embeddings: tokens in, one vector of unit length out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tokenizers
from numpy.typing import NDArray

from engines.refusals import Refusal, prompt_too_long

Vectors = NDArray[np.float32]
# How the vectors of a text's tokens, FP32 [S, D], become one, [D].
POOLINGS: Mapping[str, Callable[[Vectors], Vectors]] = {
    "mean": lambda hidden: hidden.mean(axis=0),
    "cls": lambda hidden: hidden[0],
    "max": lambda hidden: hidden.max(axis=0),
}


class Embedder:
    """An encoder with its tokenizer.

    Args:
        encode: Token ids of one text to the last hidden state of each token, FP32 [S, D].
        tokenizer_file: The model's `tokenizer.json`. Its own padding and truncation are switched off.
        context_tokens: Longest text in tokens, special tokens included.
        pooling: One of `POOLINGS`.
        special_tokens: Whether the tokenizer adds those its model was trained with.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[int]], Vectors],
        tokenizer_file: Path,
        *,
        context_tokens: int,
        pooling: str = "mean",
        special_tokens: bool = True,
    ) -> None:
        self._encode = encode
        self._pool = POOLINGS[pooling]
        self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._context_tokens = context_tokens
        self._special_tokens = special_tokens

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text, special tokens included.

        Raises:
            Refusal: PROMPT_TOO_LONG or PROMPT_EMPTY with the text's place (`item`, from 0); nothing is cut silently.
        """
        batch = self._tokenizer.encode_batch(list(texts), add_special_tokens=self._special_tokens)
        encoded = [encoding.ids for encoding in batch]
        for item, ids in enumerate(encoded):
            if not ids:
                raise Refusal("PROMPT_EMPTY", item=item)
            if len(ids) > self._context_tokens:
                raise prompt_too_long(len(ids), self._context_tokens, item=item)
        return encoded

    def embed(self, token_ids: Sequence[Sequence[int]]) -> Vectors:
        """Embed tokenized texts.

        Each text runs alone: no padding to pay for, and its vector cannot depend on its neighbours.

        Returns:
            FP32 [B, D], rows have unit L2 norm, order kept.
        """
        return np.stack([self._embed_one(ids) for ids in token_ids])

    def _embed_one(self, ids: Sequence[int]) -> Vectors:
        pooled = self._pool(self._encode(ids))
        return pooled / max(float(np.linalg.norm(pooled)), 1e-12)


class OnnxEncoder:
    """A BERT-like encoder from an ONNX file.

    Args:
        model_file: ONNX model with inputs `input_ids`, `attention_mask`, optionally `token_type_ids` (INT64, [B, S]),
            whose first output is the last hidden state, FP32 [B, S, D].
        threads: Threads of one run.
    """

    def __init__(self, model_file: Path, *, threads: int) -> None:
        self._session = onnxruntime.InferenceSession(
            str(model_file), session_options(threads), providers=["CPUExecutionProvider"]
        )
        self._inputs = {tensor.name for tensor in self._session.get_inputs()}
        self._output = self._session.get_outputs()[0].name

    def __call__(self, ids: Sequence[int]) -> Vectors:
        row = np.asarray([ids], dtype=np.int64)
        # Without padding the mask is all ones.
        every = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
        feed: dict[str, Any] = {name: every[name] for name in self._inputs}
        hidden: Vectors = self._session.run([self._output], feed)[0][0]
        return hidden


def session_options(threads: int) -> Any:
    """Options of an ONNX Runtime session that shares its cores with the process that waits for the answer."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads take the core from the process that waits for the answer.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
