"""Triton Python-backend model that runs an ONNX model on raw tensors; parameters: README.md in this folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb

from engines.onnx.embedding import session_options

# A model may refuse the keeper's zeros and live.
CANARY_PREFIX = "modelyard-canary"


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        given = {k: v["string_value"] for k, v in config.get("parameters", {}).items()}
        folder = Path(args["model_repository"]) / args["model_version"]
        threads = int(given.get("threads", "0")) or len(os.sched_getaffinity(0))
        self._session = onnxruntime.InferenceSession(
            str(folder / given["model_file"]), session_options(threads), providers=["CPUExecutionProvider"]
        )
        self._inputs = [one["name"] for one in config["input"]]
        self._outputs = [one["name"] for one in config["output"]]
        self._zeros = {one["name"]: _zeros(one, config["max_batch_size"]) for one in config["output"]}
        self._batches = "dynamic_batching" in config

    def execute(self, requests: list[Any]) -> list[Any]:
        feeds = [self._feed(request) for request in requests]
        if self._batches and len(requests) > 1 and _fit_together(feeds):
            try:
                results = self._run_together(feeds)
            except Exception:  # noqa: BLE001 - one of them may be at fault: each is then asked by itself
                results = None
            if results is not None:
                return [self._answer(request, result) for request, result in zip(requests, results, strict=True)]
        return [self._run_alone(request, feed) for request, feed in zip(requests, feeds, strict=True)]

    def _feed(self, request: Any) -> dict[str, Any]:
        return {name: _to_onnx(pb.get_input_tensor_by_name(request, name).as_numpy()) for name in self._inputs}

    def _run_alone(self, request: Any, feed: dict[str, Any]) -> Any:
        try:
            return self._answer(request, self._session.run(self._outputs, feed))
        except Exception as failure:  # noqa: BLE001 - one bad request must not end the engine
            if request.request_id().startswith(CANARY_PREFIX):
                return self._answer(request, [self._zeros[name] for name in self._outputs])
            # The type alone: the text may quote the input.
            text = f"REQUEST_REFUSED type={type(failure).__name__}"
            return pb.InferenceResponse(error=pb.TritonError(text, pb.TritonError.INVALID_ARG))

    def _run_together(self, feeds: list[dict[str, Any]]) -> list[list[Any]] | None:
        """Each request's outputs, or None where the model does not keep one row a request."""
        sizes = [feed[self._inputs[0]].shape[0] for feed in feeds]
        whole = {name: np.concatenate([feed[name] for feed in feeds]) for name in self._inputs}
        outputs = self._session.run(self._outputs, whole)
        if any(not output.shape or output.shape[0] != sum(sizes) for output in outputs):
            return None
        edges = np.cumsum(sizes)[:-1]
        parts = [np.split(output, edges) for output in outputs]
        return [list(one) for one in zip(*parts, strict=True)]

    def _answer(self, request: Any, outputs: list[Any]) -> Any:
        wanted = set(request.requested_output_names())
        named = zip(self._outputs, outputs, strict=True)
        return pb.InferenceResponse([pb.Tensor(name, _to_triton(value)) for name, value in named if name in wanted])


def _fit_together(feeds: list[dict[str, Any]]) -> bool:
    """Same shapes but for the batch."""
    return all(
        {name: value.shape[1:] for name, value in feed.items()}
        == {name: value.shape[1:] for name, value in feeds[0].items()}
        for feed in feeds[1:]
    )


def _to_onnx(value: Any) -> Any:
    if value.dtype != object:
        return value
    flat = [one.decode("utf-8", errors="replace") for one in value.reshape(-1)]
    return np.array(flat, dtype=object).reshape(value.shape)


def _to_triton(value: Any) -> Any:
    if value.dtype.kind not in "OU":
        return np.ascontiguousarray(value)
    flat = [str(one).encode() for one in value.reshape(-1)]
    return np.array(flat, dtype=object).reshape(value.shape)


def _zeros(output: dict[str, Any], max_batch_size: int) -> Any:
    """Zeros of an output's shape, one where a length is free."""
    shape = [max(int(length), 1) for length in output["dims"]]
    batch = [1] if max_batch_size else []
    dtype = pb.triton_string_to_numpy(output["data_type"])
    return np.full(batch + shape, b"", dtype=object) if dtype is np.object_ else np.zeros(batch + shape, dtype)
