"""InferenceService and the operators' view of the data path."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from modelyard.deploy.v1 import routes_pb2
from modelyard.inference.v1 import (
    inference_pb2,
    inference_pb2_grpc,
    operations_pb2,
    operations_pb2_grpc,
)

from chassis.access.caller import Caller, CallerKind, current_caller
from chassis.access.policy import Metadata
from chassis.paging import page_size, page_token_decode, page_token_encode
from services.inference.access.keys import KeyDirectory
from services.inference.domain.calls import Message, Sampling
from services.inference.domain.media import TOP_K_DEFAULT, Listening
from services.inference.usecases.calls import Calls
from services.inference.usecases.media import classify_images, transcribe

Context = Any


class KeyedServicer:
    """What both services authenticated by keys share."""

    def __init__(self, keys: KeyDirectory) -> None:
        self._keys = keys

    def key(self) -> routes_pb2.KeyAccess:
        """The caller's key, which the interceptor has checked."""
        return self._keys.of_caller(current_caller().key_id)


async def caller_from_key(keys: KeyDirectory, metadata: Metadata) -> Caller:
    """For the access interceptor: who an inference key speaks for."""
    key = await keys.authenticate(metadata.get("authorization"))
    return Caller(f"key:{key.key_id}", CallerKind.KEY, project_uid=key.project_uid, key_id=key.key_id)


class InferenceServicer(KeyedServicer, inference_pb2_grpc.InferenceServiceServicer):
    """The same calls as REST."""

    def __init__(self, keys: KeyDirectory, calls: Calls) -> None:
        super().__init__(keys)
        self._calls = calls

    async def ListCallable(
        self, request: inference_pb2.ListCallableRequest, context: Context
    ) -> inference_pb2.ListCallableResponse:
        key = self.key()
        scope = f"ListCallable/{key.key_id}"
        (after,) = page_token_decode(request.page_token, scope, ("",))
        limit = page_size(request.page_size)
        found = [pair for pair in self._calls.routes.callable_with(key) if pair[0] > after]
        page = found[:limit]
        return inference_pb2.ListCallableResponse(
            callables=[
                inference_pb2.Callable(
                    model=name,
                    model_version=destination.deployment.model_version,
                    serverless=destination.route.serverless,
                    created=destination.route.create_time.ToSeconds(),
                )
                for name, destination in page
            ],
            next_page_token=page_token_encode(scope, [page[-1][0]]) if len(found) > limit else "",
        )

    async def ChatCompletion(
        self, request: inference_pb2.ChatCompletionRequest, context: Context
    ) -> AsyncIterator[inference_pb2.ChatCompletionResponse]:
        sampling = Sampling(
            # 0 is proto3's "not set"; a negative value is refused by the domain.
            max_tokens=request.max_tokens or None,
            temperature=request.temperature if request.HasField("temperature") else None,
            top_p=request.top_p if request.HasField("top_p") else None,
            seed=request.seed if request.HasField("seed") else None,
            stop=tuple(request.stop),
        )
        messages = [Message(message.role, message.content) for message in request.messages]
        generation = await self._calls.chat(self.key(), request.model, messages, sampling)
        async with aclosing(generation.pieces()) as pieces:
            async for text in pieces:
                yield inference_pb2.ChatCompletionResponse(id=generation.id, text=text)
        usage = generation.usage
        yield inference_pb2.ChatCompletionResponse(
            id=generation.id,
            finish_reason=generation.finish_reason,
            usage=inference_pb2.Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens),
        )

    async def Embed(self, request: inference_pb2.EmbedRequest, context: Context) -> inference_pb2.EmbedResponse:
        embedded = await self._calls.embed(self.key(), request.model, list(request.inputs))
        return inference_pb2.EmbedResponse(
            id=embedded.id,
            embeddings=[
                inference_pb2.Embedding(values=struct.unpack(f"<{len(row) // 4}f", row)) for row in embedded.rows
            ],
            usage=inference_pb2.Usage(input_tokens=embedded.input_tokens),
        )

    async def Transcribe(
        self, request: inference_pb2.TranscribeRequest, context: Context
    ) -> inference_pb2.TranscribeResponse:
        listening = Listening(
            language=request.language,
            prompt=request.prompt,
            temperature=request.temperature if request.HasField("temperature") else None,
        )
        transcribed = await transcribe(self._calls, self.key(), request.model, request.audio, listening)
        return inference_pb2.TranscribeResponse(
            id=transcribed.id,
            text=transcribed.text,
            segments=[
                inference_pb2.TranscriptSegment(
                    start_s=segment.start,
                    end_s=segment.end,
                    text=segment.text,
                    avg_logprob=segment.avg_logprob,
                    no_speech_prob=segment.no_speech_prob,
                )
                for segment in transcribed.segments
            ],
            usage=inference_pb2.Usage(audio_milliseconds=transcribed.audio_milliseconds),
        )

    async def ClassifyImages(
        self, request: inference_pb2.ClassifyImagesRequest, context: Context
    ) -> inference_pb2.ClassifyImagesResponse:
        classified = await classify_images(
            self._calls,
            self.key(),
            request.model,
            list(request.images),
            # 0 is proto3's "not set"; a negative value is refused by the domain.
            top_k=request.top_k or TOP_K_DEFAULT,
        )
        return inference_pb2.ClassifyImagesResponse(
            id=classified.id,
            classifications=[
                inference_pb2.ImageClassification(
                    labels=[inference_pb2.ImageLabel(label=one.label, score=one.score) for one in labels]
                )
                for labels in classified.labels
            ],
            usage=inference_pb2.Usage(images=classified.images),
        )


class OperationsServicer(operations_pb2_grpc.InferenceOperationsServiceServicer):
    """What operators ask of the data path."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def GetDataPathState(
        self, request: operations_pb2.GetDataPathStateRequest, context: Context
    ) -> operations_pb2.DataPathState:
        journal = self._calls.journal
        return operations_pb2.DataPathState(
            journal_id=journal.journal_id,
            opened_count=journal.opened_count,
            running_count=journal.running_count,
            committed_seq=journal.committed_seq,
            last_seq=journal.last_seq,
            size_bytes=journal.size_bytes,
            size_bytes_max=journal.size_bytes_max,
            routes_age_s=min(self._calls.routes.watch.staleness_s, 1e9),
            refusing=journal.refusing,
        )
