"""Triton Python-backend model that classifies images with ONNX Runtime; tensors: README.md in this folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb

from engines.canary import CANARY_PREFIX
from engines.images.classifier import Classifier, Preparation
from engines.refusals import Refusal
from engines.token_log import TokenLog


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        given = {k: v["string_value"] for k, v in json.loads(args["model_config"]).get("parameters", {}).items()}
        folder = Path(args["model_repository"]) / args["model_version"]
        token_log = given.get("token_log", "")
        self._log = TokenLog(Path(token_log) if token_log else None)
        self._classifier = Classifier(
            folder / given["model_file"],
            given["labels"].split(","),
            Preparation.from_parameters(given),
            pixels_max=int(given.get("pixels_max", "25000000")),
            threads=int(given.get("threads", "0")) or len(os.sched_getaffinity(0)),
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            files = [bytes(value) for value in pb.get_input_tensor_by_name(request, "IMAGE").as_numpy().reshape(-1)]
            classified = self._classifier.classify(self._classifier.prepare(files))
        except Refusal as refusal:
            self._write_log(request, 0, "refused")
            return pb.InferenceResponse(error=pb.TritonError(str(refusal), pb.TritonError.INVALID_ARG))
        except Exception as failure:  # noqa: BLE001 - one bad file must not end the engine
            self._write_log(request, 0, "failed")
            text = f"ENGINE_FAILED type={type(failure).__name__}"
            return pb.InferenceResponse(error=pb.TritonError(text, pb.TritonError.INTERNAL))
        self._write_log(request, len(files), "stop")
        labels = [[label.encode() for label in one.labels] for one in classified]
        return pb.InferenceResponse(
            [
                pb.Tensor("LABEL", np.asarray(labels, dtype=np.object_)),
                pb.Tensor("SCORE", np.asarray([one.scores for one in classified], np.float32)),
                pb.Tensor("NUM_IMAGES", np.ones((len(files), 1), np.int32)),
            ]
        )

    def _write_log(self, request: Any, images: int, end: str) -> None:
        if not request.request_id().startswith(CANARY_PREFIX):
            self._log.write(request.request_id(), end=end, images=images)

    def finalize(self) -> None:
        self._log.close()
