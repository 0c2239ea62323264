"""Try a model without a deployment: the platform's own endpoint answers, and nobody pays."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncGenerator, Container
from contextlib import aclosing
from dataclasses import dataclass, field

import grpc
from modelyard.catalog.v1 import catalog_pb2
from modelyard.deploy.v1 import deploy_pb2, routes_pb2, trials_pb2, trials_pb2_grpc

from chassis.rpc import problem_from_rpc_error
from services.inference.access.routes import Destination
from services.inference.domain.calls import Message, Sampling
from services.inference.domain.errors import (
    ModelNotCallable,
    NoReadyInstance,
    RequestInvalid,
    TaskNotSupported,
    TrialNotStarted,
)
from services.inference.domain.media import TOP_K_DEFAULT, Label, Listening
from services.inference.domain.trials import TrialLimiter
from services.inference.domain.usage import Counts
from services.inference.usecases.calls import Calls
from services.inference.usecases.media import classify_images, transcribe

# Stands on the usage records of trials, where calls have the id of their key.
KEY_ID = "trial"
_LOOK_S = 0.2
# How often deploy is asked again how far the start is; it also keeps the trial.
_ASK_S = 2.0


@dataclass(frozen=True)
class TrialLimits:
    """`per_minute_max`: tries of one member of one project. `start_s_max`: longest wait for an instance, seconds."""

    per_minute_max: int = 10
    characters_max: int = 4000
    output_tokens_max: int = 128
    start_s_max: float = 90.0
    file_bytes_max: int = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class TrialPiece:
    """A part of what comes back; the last one has `usage`."""

    progress: str = ""
    text: str = ""
    embedding: tuple[float, ...] = ()
    labels: tuple[Label, ...] = ()
    usage: Counts | None = None
    id: str = ""


@dataclass(slots=True)
class Trials:
    """Runs trials."""

    calls: Calls
    deploy: grpc.aio.Channel
    limits: TrialLimits
    limiter: TrialLimiter = field(init=False)

    def __post_init__(self) -> None:
        self.limiter = TrialLimiter(self.limits.per_minute_max)

    async def try_model(
        self, project: str, project_uid: str, principal: str, model: str, text: str, file: bytes = b""
    ) -> AsyncGenerator[TrialPiece, None]:
        """Ask once, with a text or with a file.

        Raises:
            TrialLimitReached: too many in the last minute.
            RequestInvalid: neither or both, or too much.
            TaskNotSupported: the model takes the other of the two.
            TrialNotStarted: no instance answered in time.
            Problem: what deploy or the engine refused.
        """
        if file:
            self._check_file(text, file)
        elif not 1 <= len(text) <= self.limits.characters_max:
            raise RequestInvalid(
                f"text has {len(text)} characters; 1 to {self.limits.characters_max} are allowed in a trial: deploy the "
                "model for longer ones",
                field="text",
            )
        self.limiter.take(project_uid, principal, time.monotonic())
        trial, destination = None, None
        async with aclosing(self._started(project, model)) as steps:
            async for step in steps:
                if isinstance(step, str):
                    yield TrialPiece(progress=step)
                else:
                    trial, destination = step
        if trial is None or destination is None:
            raise TrialNotStarted(f"{model!r} did not start")
        key = routes_pb2.KeyAccess(key_id=KEY_ID, project_uid=trial.project_uid)
        tasks = destination.deployment.tasks
        answer = (
            self._ask_with_file(key, trial.endpoint, tasks, file)
            if file
            else self._ask_with_text(key, trial.endpoint, tasks, text)
        )
        async with aclosing(answer) as pieces:
            async for piece in pieces:
                yield piece

    def _check_file(self, text: str, file: bytes) -> None:
        if text:
            raise RequestInvalid("text and file are both set; a model takes one of them", field="file")
        if len(file) > self.limits.file_bytes_max:
            raise RequestInvalid(
                f"file has {len(file)} bytes; at most {self.limits.file_bytes_max} are allowed in a trial: deploy the model "
                "for larger ones",
                field="file",
            )

    async def _ask_with_text(
        self, key: routes_pb2.KeyAccess, endpoint: str, tasks: Container[int], text: str
    ) -> AsyncGenerator[TrialPiece, None]:
        if catalog_pb2.TASK_CHAT_COMPLETION in tasks:
            async with aclosing(self._chat(key, endpoint, text)) as pieces:
                async for piece in pieces:
                    yield piece
        elif catalog_pb2.TASK_EMBEDDINGS in tasks:
            answered = await self.calls.embed(key, endpoint, [text])
            (row,) = answered.rows
            yield TrialPiece(
                embedding=struct.unpack(f"<{len(row) // 4}f", row),
                usage=Counts(answered.input_tokens, 0),
                id=answered.id,
            )
        elif catalog_pb2.TASK_TRANSCRIPTION in tasks or catalog_pb2.TASK_IMAGE_CLASSIFICATION in tasks:
            raise TaskNotSupported("the model takes no text; send it an audio file or an image", field="text")
        else:
            raise TaskNotSupported(
                "the model answers neither chats nor texts with vectors, so it cannot be tried: deploy it", field="text"
            )

    async def _ask_with_file(
        self, key: routes_pb2.KeyAccess, endpoint: str, tasks: Container[int], file: bytes
    ) -> AsyncGenerator[TrialPiece, None]:
        if catalog_pb2.TASK_TRANSCRIPTION in tasks:
            heard = await transcribe(self.calls, key, endpoint, file, Listening())
            yield TrialPiece(text=heard.text, usage=Counts(audio_milliseconds=heard.audio_milliseconds), id=heard.id)
        elif catalog_pb2.TASK_IMAGE_CLASSIFICATION in tasks:
            seen = await classify_images(self.calls, key, endpoint, [file], top_k=TOP_K_DEFAULT)
            yield TrialPiece(labels=seen.labels[0], usage=Counts(images=seen.images), id=seen.id)
        else:
            raise TaskNotSupported("the model takes no file; send it a text", field="file")

    async def _chat(self, key: routes_pb2.KeyAccess, endpoint: str, text: str) -> AsyncGenerator[TrialPiece, None]:
        sampling = Sampling(max_tokens=self.limits.output_tokens_max)
        generation = await self.calls.chat(key, endpoint, [Message("user", text)], sampling)
        async with aclosing(generation.pieces()) as pieces:
            async for said in pieces:
                yield TrialPiece(text=said)
        yield TrialPiece(usage=generation.usage, id=generation.id)

    async def _started(
        self, project: str, model: str
    ) -> AsyncGenerator[str | tuple[trials_pb2.Trial, Destination], None]:
        """What is waited for, sentence by sentence; at last where the model answers."""
        deadline = time.monotonic() + self.limits.start_s_max
        told = ""
        while True:
            trial = await self._ensure(project, model)
            key = routes_pb2.KeyAccess(key_id=KEY_ID, project_uid=trial.project_uid)
            ask_again = time.monotonic() + _ASK_S
            while time.monotonic() < min(ask_again, deadline):
                try:
                    found = self.calls.routes.find(key, trial.endpoint)
                except (ModelNotCallable, NoReadyInstance):
                    # It is on its way: the endpoint was made a moment ago, or its instance starts.
                    await asyncio.sleep(_LOOK_S)
                    if not told:
                        told = "an instance is being started for it; the first try takes a few seconds"
                        yield told
                else:
                    yield trial, found
                    return
            if trial.state == deploy_pb2.DEPLOYMENT_STATE_FAILED:
                raise TrialNotStarted(f"{model!r} cannot be tried now: {trial.state_detail or 'its instance failed'}")
            if time.monotonic() >= deadline:
                detail = f": {trial.state_detail}" if trial.state_detail else ""
                raise TrialNotStarted(
                    f"no instance of {model!r} answered within {self.limits.start_s_max:g} s{detail}; try again, or look "
                    "at `modelyard status`"
                )
            if trial.state_detail and trial.state_detail != told:
                told = trial.state_detail
                yield told

    async def _ensure(self, project: str, model: str) -> trials_pb2.Trial:
        request = trials_pb2.EnsureTrialRequest(parent=f"projects/{project}", model=model)
        try:
            trial: trials_pb2.Trial = await trials_pb2_grpc.TrialServiceStub(self.deploy).EnsureTrial(request)
        except grpc.aio.AioRpcError as error:
            raise problem_from_rpc_error(error) from error
        return trial
