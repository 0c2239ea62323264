"""Triton Python-backend model that copies INPUT to OUTPUT."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        inputs = [pb.get_input_tensor_by_name(request, "INPUT").as_numpy() for request in requests]
        return [pb.InferenceResponse([pb.Tensor("OUTPUT", value)]) for value in inputs]
