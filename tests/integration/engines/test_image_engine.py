"""The image engine on a real Triton with a real model."""

from __future__ import annotations

import io
from pathlib import Path

import grpc
import pytest
from PIL import Image

from engines.refusals import read_refusal
from engines.token_log import read_token_log
from services.catalog.sources.content_files import SHIPPED
from tests.infra.instances import EngineClient

TURNED = (SHIPPED / "samples" / "page-turned-90.png").read_bytes()


def turned(degrees: int, form: str = "PNG") -> bytes:
    """The sample's page, turned clockwise by as much."""
    content = io.BytesIO()
    Image.open(io.BytesIO(TURNED)).convert("RGB").rotate(90 - degrees, expand=True).save(content, form)
    return content.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
async def test_a_page_lies_as_its_label_says(image_engine: EngineClient, degrees: int, form: str) -> None:
    ((first, *others),) = await image_engine.classify([turned(degrees, form)])
    assert first[0] == str(degrees)
    assert first[1] > 0.8
    assert {label for label, _ in (first, *others)} == {"0", "90", "180", "270"}


async def test_scores_fall_and_sum_to_one(image_engine: EngineClient) -> None:
    (labels,) = await image_engine.classify([TURNED])
    scores = [score for _, score in labels]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-3)


async def test_a_picture_has_the_same_labels_whatever_its_neighbours(image_engine: EngineClient) -> None:
    alone = await image_engine.classify([TURNED])
    among = await image_engine.classify([turned(180), TURNED, turned(0, "JPEG")])
    assert among[1] == alone[0]


async def test_a_call_is_refused_as_a_whole_with_the_place_of_what_was_wrong(image_engine: EngineClient) -> None:
    """A picture over the limit is refused by its header; the log counts no image."""
    wide = io.BytesIO()
    Image.new("1", (1_001, 1_000)).save(wide, "PNG")
    for images, said in (
        ([TURNED, b"no picture"], ("IMAGE_UNREADABLE", {"item": "1", "allowed": "JPEG,PNG,WEBP"})),
        ([wide.getvalue()], ("IMAGE_TOO_LARGE", {"item": "0", "pixels": "1001000", "pixels_max": "1000000"})),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await image_engine.classify(images, request_id=said[0])
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert read_refusal(refused.value.details() or "") == said
        lines = read_token_log(Path(image_engine.view.handle["folder"]) / "tokens.jsonl")
        line = next(line for line in lines if line["request_id"] == said[0])
        assert (line["images"], line["end"]) == (0, "refused")


async def test_the_log_counts_images(image_engine: EngineClient) -> None:
    await image_engine.classify([TURNED, TURNED], request_id="counted")
    lines = read_token_log(Path(image_engine.view.handle["folder"]) / "tokens.jsonl")
    line = next(line for line in lines if line["request_id"] == "counted")
    assert (line["images"], line["end"]) == (2, "stop")
