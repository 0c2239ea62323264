"""Triton Python-backend model that embeds texts with ONNX Runtime; tensors: README.md in this folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb

from engines.canary import CANARY_PREFIX
from engines.onnx.embedding import Embedder, OnnxEncoder
from engines.refusals import Refusal
from engines.token_log import TokenLog


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        given = {k: v["string_value"] for k, v in json.loads(args["model_config"]).get("parameters", {}).items()}
        folder = Path(args["model_repository"]) / args["model_version"]
        token_log = given.get("token_log", "")
        self._log = TokenLog(Path(token_log) if token_log else None)
        self._embedder = Embedder(
            self._encoder(folder, given, threads=int(given.get("threads", "0")) or len(os.sched_getaffinity(0))),
            folder / given.get("tokenizer_file", "tokenizer.json"),
            context_tokens=int(given.get("context_tokens", "256")),
            pooling=given.get("pooling", "mean"),
            special_tokens=given.get("special_tokens", "true") == "true",
        )

    def _encoder(self, folder: Path, given: dict[str, str], *, threads: int) -> Any:
        return OnnxEncoder(folder / given["model_file"], threads=threads)

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            values = pb.get_input_tensor_by_name(request, "TEXT").as_numpy().reshape(-1)
            token_ids = self._embedder.token_ids([value.decode("utf-8", errors="replace") for value in values])
            counts = np.asarray([[len(ids)] for ids in token_ids], dtype=np.int32)
            embedding = self._embedder.embed(token_ids)
        except Refusal as refusal:
            self._write_log(request, 0, "refused")
            return pb.InferenceResponse(error=pb.TritonError(str(refusal), pb.TritonError.INVALID_ARG))
        except Exception as failure:  # noqa: BLE001 - one bad text must not end the engine
            self._write_log(request, 0, "failed")
            # The type alone: the text of an unforeseen error may quote the input.
            text = f"ENGINE_FAILED type={type(failure).__name__}"
            return pb.InferenceResponse(error=pb.TritonError(text, pb.TritonError.INTERNAL))
        self._write_log(request, int(counts.sum()), "stop")
        return pb.InferenceResponse([pb.Tensor("EMBEDDING", embedding), pb.Tensor("NUM_INPUT_TOKENS", counts)])

    def _write_log(self, request: Any, input_tokens: int, end: str) -> None:
        if not request.request_id().startswith(CANARY_PREFIX):
            self._log.write(request.request_id(), input_tokens=input_tokens, output_tokens=0, end=end)

    def finalize(self) -> None:
        self._log.close()
