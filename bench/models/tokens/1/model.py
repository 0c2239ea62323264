"""Triton Python-backend model that streams as many one-token responses as INPUT says, without any work between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            count = int(pb.get_input_tensor_by_name(request, "INPUT").as_numpy()[0])
            for _ in range(count):
                sender.send(
                    pb.InferenceResponse(
                        [
                            pb.Tensor("text_output", np.array([b" token"], dtype=np.object_)),
                            pb.Tensor("num_output_tokens", np.array([1], dtype=np.uint32)),
                        ]
                    )
                )
            sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
