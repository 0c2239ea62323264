"""The contracts of the speech and image engines over Triton."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from modelyard.deploy.v1 import routes_pb2
from tritonclient.grpc import service_pb2

from services.inference.backends.triton import (
    BROKEN_OFF,
    TritonBackend,
    add_bytes,
    named_outputs,
    read_all_bytes,
    read_bytes,
    sum_of,
)
from services.inference.domain.errors import EngineFailed
from services.inference.domain.media import Label, Segment

# Images of one request: `max_batch_size` of the image engines.
CLASSIFY_ROWS_MAX = 16


@dataclass(frozen=True, slots=True)
class Heard:
    """What one response of a speech engine added."""

    segments: tuple[Segment, ...]
    audio_milliseconds: int
    # ISO 639-1 code of what is spoken.
    language: str


@dataclass(frozen=True, slots=True)
class Looked:
    """What an image engine said, one entry an image, order kept."""

    labels: tuple[tuple[Label, ...], ...]
    images: int


async def hear(
    backend: TritonBackend,
    target: routes_pb2.RouteTarget,
    request_id: str,
    audio: bytes,
    parameters: Mapping[str, object],
) -> AsyncGenerator[Heard, None]:
    """Transcribe a file, piece by piece. Closing the iterator cancels the work.

    Raises:
        As `TritonBackend.generate`.
    """
    request = service_pb2.ModelInferRequest(model_name=target.model_name, id=request_id)
    add_bytes(request, "AUDIO", [audio], [1])
    add_bytes(request, "PARAMETERS", [json.dumps(parameters).encode()], [1])
    finished = False
    async with aclosing(backend.raw_stream(target, request)) as responses:
        async for response in responses:
            outputs = named_outputs(response)
            reason = read_bytes(outputs["FINISH_REASON"]).decode()
            if reason in BROKEN_OFF:
                break
            finished = finished or reason != "None"
            segments = tuple(Segment(**json.loads(said)) for said in read_all_bytes(outputs["SEGMENTS"]))
            language = read_bytes(outputs["LANGUAGE"]).decode()
            yield Heard(segments, sum_of(outputs["AUDIO_MILLISECONDS"], 8), language)
    if not finished:
        raise EngineFailed("the instance ended the call before its answer; try again", retry_after_s=1.0)


async def look(
    backend: TritonBackend,
    target: routes_pb2.RouteTarget,
    request_id: str,
    images: Sequence[bytes],
    *,
    top_k: int,
    timeout_s: float,
) -> Looked:
    """Classify at most CLASSIFY_ROWS_MAX images: the `top_k` most probable labels of each, the surest first.

    Raises:
        As `TritonBackend.generate`.
    """
    request = service_pb2.ModelInferRequest(model_name=target.model_name, id=request_id)
    add_bytes(request, "IMAGE", images, [len(images), 1])
    outputs = named_outputs(await backend.raw_infer(target, request, timeout_s=timeout_s))
    names = [name.decode() for name in read_all_bytes(outputs["LABEL"])]
    scores = struct.unpack(f"<{len(names)}f", outputs["SCORE"])
    width = len(names) // len(images)
    rows = [range(start, start + min(top_k, width)) for start in range(0, len(names), width)]
    return Looked(
        labels=tuple(tuple(Label(names[at], scores[at]) for at in row) for row in rows),
        images=sum_of(outputs["NUM_IMAGES"], 4),
    )
