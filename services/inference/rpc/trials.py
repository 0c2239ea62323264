"""TrialService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from modelyard.inference.v1 import inference_pb2, trials_pb2, trials_pb2_grpc

from chassis.access.caller import current_caller
from services.inference.usecases.trials import Trials

Context = Any


class TrialServicer(trials_pb2_grpc.TrialServiceServicer):
    """Members of a project try models."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials

    async def TryModel(
        self, request: trials_pb2.TryModelRequest, context: Context
    ) -> AsyncIterator[trials_pb2.TryModelResponse]:
        caller = current_caller()
        answer = self._trials.try_model(
            caller.project, caller.project_uid, caller.principal, request.model, request.text, request.file
        )
        async with aclosing(answer) as pieces:
            async for piece in pieces:
                response = trials_pb2.TryModelResponse(
                    progress=piece.progress,
                    text=piece.text,
                    embedding=piece.embedding,
                    labels=[inference_pb2.ImageLabel(label=one.label, score=one.score) for one in piece.labels],
                    id=piece.id,
                )
                if piece.usage is not None:
                    response.usage.CopyFrom(
                        inference_pb2.Usage(
                            input_tokens=piece.usage.input_tokens,
                            output_tokens=piece.usage.output_tokens,
                            audio_milliseconds=piece.usage.audio_milliseconds,
                            images=piece.usage.images,
                        )
                    )
                yield response
