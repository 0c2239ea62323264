"""Audio and images: the unmodified `openai` client, gRPC and raw tensors, on real engines; each has one record."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import grpc
import numpy as np
import openai
import psutil
import pytest
import tritonclient.grpc as triton
from modelyard.inference.v1 import inference_pb2, inference_pb2_grpc
from modelyard.type.v1 import money_pb2

from chassis.ids import new_uid
from services.catalog.sources.content_files import SHIPPED
from services.deploy.compute.interface import InstanceView
from tests.infra.data_path import DataPath, token_log_line
from tests.infra.instances import wait_until
from tests.integration.engines.test_speech_engine import repeated, wav
from tests.integration.inference.conftest import MediaInstances
from tests.integration.inference.test_grpc_faces import metadata, reason_of
from tests.integration.inference.test_refusals import check_refused, nothing_admitted

pytestmark = pytest.mark.usefixtures("media_instances")

TRANSCRIPTIONS, CLASSIFICATIONS = "/v1/audio/transcriptions", "/v1/images/classifications"
AUDIO_MS, IMAGES = money_pb2.METER_AUDIO_MILLISECONDS, money_pb2.METER_IMAGES
SPEECH = (SHIPPED / "samples" / "every-call.wav").read_bytes()
PAGE = (SHIPPED / "samples" / "page-turned-90.png").read_bytes()
SAID = "Every call makes exactly one usage record."


def form(*parts: tuple[str, str | bytes]) -> tuple[bytes, dict[str, str]]:
    """A multipart body and its header; bytes are files."""
    body = b""
    for name, value in parts:
        is_file = isinstance(value, bytes)
        body += f'--edge\r\nContent-Disposition: form-data; name="{name}"'.encode()
        body += b'; filename="f"\r\n\r\n' if is_file else b"\r\n\r\n"
        body += (value if is_file else value.encode()) + b"\r\n"
    return body + b"--edge--\r\n", {"content-type": "multipart/form-data; boundary=edge"}


async def test_a_transcription_says_what_was_said_and_how_long_it_was(
    client: openai.AsyncOpenAI, data_path: DataPath, media_instances: MediaInstances
) -> None:
    """The client, the record and the engine's own log agree to the millisecond."""
    request_id = new_uid()
    answer = await client.audio.transcriptions.create(
        model="speech", file=("every-call.wav", SPEECH), extra_headers={"x-request-id": request_id}
    )
    assert answer.text == SAID
    assert answer.usage is not None
    assert (answer.usage.type, answer.usage.seconds) == ("duration", 3.325)
    billed = await data_path.billed(request_id)
    assert (billed.outcome, billed.amount(AUDIO_MS), billed.tokens()) == ("COMPLETED", 3_325, (0, 0))
    assert billed.amount(money_pb2.METER_REQUESTS) == 1
    line = await token_log_line(media_instances.speech, billed.record.id)
    assert (line["audio_milliseconds"], line["end"]) == (3_325, "stop")


async def test_a_verbose_transcription_has_its_segments(client: openai.AsyncOpenAI) -> None:
    answer = await client.audio.transcriptions.create(
        model="speech",
        file=("a.wav", SPEECH),
        response_format="verbose_json",
        timestamp_granularities=["segment"],
        language="en",
        temperature=0,
        prompt="Usage records.",
    )
    assert (answer.text, answer.language, answer.duration) == (SAID, "english", 3.325)
    assert answer.segments is not None
    (segment,) = answer.segments
    assert (segment.id, segment.text.strip()) == (0, SAID)
    assert 0 <= segment.start < segment.end <= 3.33
    assert segment.avg_logprob < 0 <= segment.no_speech_prob <= 1


@pytest.mark.parametrize(
    ("response_format", "begins"),
    [("text", SAID), ("srt", "1\n00:00:00,"), ("vtt", "WEBVTT\n\n00:00:00.")],
)
async def test_a_transcription_comes_as_text_too(client: openai.AsyncOpenAI, response_format: Any, begins: str) -> None:
    answer = await client.audio.transcriptions.create(
        model="speech", file=("a.wav", SPEECH), response_format=response_format
    )
    assert str(answer).startswith(begins)
    assert SAID in str(answer)


async def test_images_are_classified_as_files_and_as_json(
    client: openai.AsyncOpenAI, data_path: DataPath, key: str
) -> None:
    """Order kept, at most `top_k` labels each; one record with the number of images."""
    sent, headers = form(("model", "pages"), ("image", PAGE), ("image", PAGE), ("top_k", "2"))
    answer = await data_path.send("POST", CLASSIFICATIONS, sent, key=key, headers=headers)
    assert answer.status == 200, answer.body
    content = answer.json()
    assert [one["index"] for one in content["data"]] == [0, 1]
    assert [one["labels"][0]["label"] for one in content["data"]] == ["90", "90"]
    assert all(len(one["labels"]) == 2 for one in content["data"])
    assert (content["object"], content["model"], content["usage"]) == ("list", "pages", {"images": 2})
    billed = next(one for one in data_path.records() if one.record.id == answer.headers["x-modelyard-record"])
    assert (billed.outcome, billed.amount(IMAGES), billed.tokens()) == ("COMPLETED", 2, (0, 0))
    url = "data:image/png;base64," + base64.b64encode(PAGE).decode()
    again: Any = await client.post("/images/classifications", body={"model": "pages", "image": url}, cast_to=object)
    assert again["data"][0]["labels"][:2] == content["data"][0]["labels"]


async def test_grpc_answers_as_rest_does(channel: grpc.aio.Channel, data_path: DataPath, key: str) -> None:
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    request_id = new_uid()
    heard = await stub.Transcribe(
        inference_pb2.TranscribeRequest(model="speech", audio=SPEECH), metadata=metadata(key, request_id)
    )
    billed = await data_path.billed(request_id)
    assert (heard.text, heard.usage.audio_milliseconds, heard.id) == (SAID, 3_325, billed.record.id)
    assert [segment.text.strip() for segment in heard.segments] == [SAID]
    seen = await stub.ClassifyImages(
        inference_pb2.ClassifyImagesRequest(model="pages", images=[PAGE]), metadata=metadata(key)
    )
    (classification,) = seen.classifications
    assert (classification.labels[0].label, len(classification.labels), seen.usage.images) == ("90", 4, 1)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Transcribe(inference_pb2.TranscribeRequest(model="speech", audio=b"x"), metadata=metadata(key))
    assert (refused.value.code(), reason_of(refused.value)) == (grpc.StatusCode.INVALID_ARGUMENT, "MEDIA_INVALID")


async def test_raw_tensors_of_a_managed_deployment_are_recorded_in_their_own_units(
    data_path: DataPath, key: str
) -> None:
    """As they are on every engine; managed calls are recorded without a rate."""
    request_id = new_uid()
    pages = triton.InferInput("IMAGE", [2, 1], "BYTES")
    pages.set_data_from_numpy(np.asarray([[PAGE], [PAGE]], dtype=np.object_))

    def call() -> Any:
        with triton.InferenceServerClient(data_path.grpc) as client:
            return client.infer("own-pages", [pages], headers=dict(metadata(key, request_id)))

    answer = await asyncio.to_thread(call)
    assert answer.as_numpy("LABEL")[:, 0].tolist() == [b"90", b"90"]
    assert (await data_path.billed(request_id)).amount(IMAGES) == 2


def engine_core_s(view: InstanceView) -> float:
    """Time that an instance's engine has had on a core."""
    stubs = psutil.Process(int(view.handle["triton_pid"])).children(recursive=True)
    return sum(sum(stub.cpu_times()[:2]) for stub in stubs)


async def test_a_caller_who_leaves_pays_for_the_audio_that_was_heard(
    data_path: DataPath, key: str, media_instances: MediaInstances
) -> None:
    """The engine stops at the end of its window, and no later."""
    request_id = new_uid()
    body, headers = form(("model", "speech"), ("file", repeated(30)), ("temperature", "0.1"))
    head = {"host": "x", "content-length": str(len(body)), "authorization": f"Bearer {key}", **headers}
    lines = [f"POST {TRANSCRIPTIONS} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
    lines.append(f"x-request-id: {request_id}")
    before_s = engine_core_s(media_instances.speech)
    async with data_path.connected() as (_, writer):
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()
        await data_path.opened(request_id)
        # The engine's log says nothing of a call that it has begun; what it works says so.
        await wait_until(lambda: engine_core_s(media_instances.speech) > before_s + 0.2)
    billed = await data_path.billed(request_id)
    line = await token_log_line(media_instances.speech, billed.record.id)
    assert (billed.outcome, line["end"]) == ("CANCELLED", "cancelled")
    assert billed.amount(AUDIO_MS) <= line["audio_milliseconds"] < 30 * 3_325


@pytest.mark.parametrize(
    ("path", "parts", "status", "code", "says"),
    [
        (TRANSCRIPTIONS, [("model", "speech")], 400, "request_invalid", "file is missing"),
        (TRANSCRIPTIONS, [("file", SPEECH)], 400, "request_invalid", "model is missing"),
        (TRANSCRIPTIONS, [("model", "pages"), ("file", SPEECH)], 404, "task_not_supported", "transcriptions"),
        (TRANSCRIPTIONS, [("model", "speech"), ("file", b"")], 400, "request_invalid", "file is empty"),
        (
            TRANSCRIPTIONS,
            [("model", "speech"), ("file", SPEECH), ("response_format", "xml")],
            400,
            "request_invalid",
            "response_format is 'xml'; json, text, srt, verbose_json, vtt are allowed",
        ),
        (TRANSCRIPTIONS, [("model", "speech"), ("file", SPEECH), ("stream", "true")], 400, "request_invalid", "stream"),
        (
            TRANSCRIPTIONS,
            [("model", "speech"), ("file", SPEECH), ("timestamp_granularities[]", "word")],
            400,
            "request_invalid",
            "timestamp_granularities is 'word'; segment is allowed",
        ),
        (
            TRANSCRIPTIONS,
            [("model", "speech"), ("file", SPEECH), ("temperature", "7")],
            400,
            "request_invalid",
            "temperature is 7.0; 0 to 1 are allowed",
        ),
        (TRANSCRIPTIONS, [("model", "speech"), ("file", SPEECH), ("file", SPEECH)], 400, "request_invalid", "files"),
        (TRANSCRIPTIONS, [("model", "speech"), ("file", SPEECH), ("beam", "1")], 400, "request_invalid", "'beam'"),
        (CLASSIFICATIONS, [("model", "pages")], 400, "request_invalid", "image is missing"),
        (CLASSIFICATIONS, [("model", "pages"), ("image", PAGE), ("top_k", "0")], 400, "request_invalid", "top_k is 0"),
        (CLASSIFICATIONS, [("model", "pages"), ("image", PAGE), ("top_k", "x")], 400, "request_invalid", "a number"),
        (CLASSIFICATIONS, [("model", "pages"), *[("image", PAGE)] * 17], 400, "request_invalid", "files"),
        (CLASSIFICATIONS, [("model", "speech"), ("image", PAGE)], 404, "task_not_supported", "image classifications"),
    ],
)
async def test_a_bad_request_is_refused_by_name_and_nobody_pays(
    data_path: DataPath, key: str, path: str, parts: list[tuple[str, str | bytes]], status: int, code: str, says: str
) -> None:
    """Before admission: there is no record."""
    body, headers = form(*parts)
    async with nothing_admitted(data_path, key):
        check_refused(await data_path.send("POST", path, body, key=key, headers=headers), status, code, says)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"model": "pages", "image": "https://example.org/a.png"}, "is an address, and none is fetched"),
        ({"model": "pages", "image": "!"}, "image[0] is no base64"),
        ({"model": "pages", "image": []}, "image has 0 files; 1 to 16 are allowed"),
        ({"model": "pages", "image": 3}, "image: Expected `str | array`"),
        ({"model": "pages", "image": "AA==", "size": 3}, "the field 'size' is not taken"),
    ],
)
async def test_a_bad_json_request_is_refused_by_name(
    data_path: DataPath, key: str, body: dict[str, Any], says: str
) -> None:
    headers = {"content-type": "application/json"}
    async with nothing_admitted(data_path, key):
        answer = await data_path.send("POST", CLASSIFICATIONS, json.dumps(body).encode(), key=key, headers=headers)
    check_refused(answer, 400, "request_invalid", says)


@pytest.mark.parametrize(
    ("path", "field", "model", "content", "status", "code", "says"),
    [
        (TRANSCRIPTIONS, "file", "speech", b"no sound", 400, "media_invalid", "wav,flac,mp3,ogg are taken"),
        (TRANSCRIPTIONS, "file", "speech", wav(bytes(2000)), 400, "media_invalid", "62 ms long; at least 100 ms"),
        (TRANSCRIPTIONS, "file", "speech", repeated(31), 413, "media_too_large", "longer than 100 s"),
        (CLASSIFICATIONS, "image", "pages", b"GIF89a", 400, "media_invalid", "image 0 is none that can be read"),
    ],
)
async def test_a_file_that_the_model_does_not_take_costs_nothing(
    data_path: DataPath, key: str, path: str, field: str, model: str, content: bytes, status: int, code: str, says: str
) -> None:
    """Only the engine can tell, so the call is recorded: as failed, and with nothing used."""
    request_id = new_uid()
    body, headers = form(("model", model), (field, content))
    answer = await data_path.send("POST", path, body, key=key, headers={**headers, "x-request-id": request_id})
    check_refused(answer, status, code, says)
    billed = await data_path.billed(request_id)
    assert billed.outcome == "FAILED"
    assert [quantity.value for quantity in billed.record.quantities] == [0, 0, 0]


@pytest.mark.parametrize("path", [TRANSCRIPTIONS, CLASSIFICATIONS])
async def test_a_body_over_the_limit_is_refused(data_path: DataPath, key: str, path: str) -> None:
    """More than text may have, and still a limit."""
    body, headers = form(("model", "speech"), ("file", bytes(25 * 1024 * 1024)))
    async with nothing_admitted(data_path, key):
        answer = await data_path.send("POST", path, body, key=key, headers=headers)
    check_refused(answer, 413, "body_too_large", "at most 26214400 are allowed")


@pytest.mark.parametrize("headers", [{"content-type": "text/plain"}, {"content-type": "multipart/form-data"}, {}])
async def test_a_body_that_is_no_form_is_refused(data_path: DataPath, key: str, headers: dict[str, str]) -> None:
    async with nothing_admitted(data_path, key):
        answer = await data_path.send("POST", TRANSCRIPTIONS, b"hello", key=key, headers=headers)
    check_refused(answer, 400, "request_invalid", "multipart")
