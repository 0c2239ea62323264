"""Pictures as a model was trained to see them, decoded within bounds."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.images.classifier import Preparation, read_picture
from engines.refusals import Refusal

PIXELS_MAX = 1_000_000
PLAIN = {"resize": "4", "crop": "4", "mean": "0,0,0", "deviation": "1,1,1"}


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, form, **options)
    return content.getvalue()


def quarters() -> Image.Image:
    """Red, green, blue and white, each a quarter of 8 x 8."""
    picture = Image.new("RGB", (8, 8), "white")
    for place, colour in (((0, 0), "red"), ((4, 0), "lime"), ((0, 4), "blue")):
        picture.paste(colour, (*place, place[0] + 4, place[1] + 4))
    return picture


def reading(content: bytes) -> Image.Image:
    return read_picture(content, item=0, pixels_max=PIXELS_MAX)


def test_channels_and_layout_are_as_the_parameters_say() -> None:
    """The red corner, in each order."""
    picture = quarters()
    rgb = Preparation.from_parameters(PLAIN).apply(picture)
    bgr = Preparation.from_parameters({**PLAIN, "channels": "BGR", "layout": "NHWC"}).apply(picture)
    assert (rgb.shape, rgb.dtype, rgb[:, 0, 0].tolist()) == ((3, 4, 4), np.float32, [255, 0, 0])
    assert (bgr.shape, bgr[0, 0].tolist()) == ((4, 4, 3), [0, 0, 255])
    assert rgb.flags.c_contiguous
    assert bgr.flags.c_contiguous


def test_mean_and_deviation_are_of_each_channel_in_its_order() -> None:
    given = {**PLAIN, "channels": "BGR", "mean": "10,20,30", "deviation": "1,2,5"}
    prepared = Preparation.from_parameters(given).apply(Image.new("RGB", (4, 4), (80, 60, 40)))
    assert prepared[:, 0, 0].tolist() == [30, 20, 10]


def test_the_middle_is_what_is_looked_at() -> None:
    """The shorter side decides: of a wide picture the ends are cut off, in a square one both sides are pressed."""
    wide = Image.new("RGB", (12, 4), "black")
    wide.paste("white", (4, 0, 8, 4))
    kept = Preparation.from_parameters(PLAIN).apply(wide)
    pressed = Preparation.from_parameters({**PLAIN, "resize_to": "square"}).apply(wide)
    assert kept.min() == 255
    assert pressed.min() < 100


def test_a_very_long_picture_costs_no_more_than_another() -> None:
    """Only the part that is kept is resized."""
    prepared = Preparation.from_parameters({}).apply(Image.new("RGB", (500_000, 2), "white"))
    assert prepared.shape == (3, 224, 224)


@pytest.mark.parametrize(
    "wrong",
    [{"channels": "YUV"}, {"layout": "CHWN"}, {"resize_to": "long"}, {"mean": "1,2"}, {"crop": "9"}, {"crop": "0"}],
)
def test_parameters_have_ranges(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"allowed|needed"):
        Preparation.from_parameters({**PLAIN, **wrong})


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_three_formats_are_read(form: str) -> None:
    assert reading(encoded(quarters(), form)).size == (8, 8)


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "ICO", "PPM"])
def test_no_other_decoder_looks_at_a_file(form: str) -> None:
    with pytest.raises(Refusal, match="IMAGE_UNREADABLE item=3 allowed=JPEG,PNG,WEBP"):
        read_picture(encoded(quarters(), form), item=3, pixels_max=PIXELS_MAX)


def test_a_picture_stands_upright_as_its_camera_says() -> None:
    """EXIF orientation 6: the camera was turned, and the top is at the right."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert reading(encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)).size == (4, 8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    picture = Image.new("RGBA", (2, 2), (0, 0, 0, 0)).convert(mode) if mode != "P" else Image.new("P", (2, 2))
    content = encoded(picture, transparency=0) if mode == "P" else encoded(picture)
    assert reading(content).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "CMYK"])
def test_every_other_mode_becomes_three_channels(mode: str) -> None:
    form = "JPEG" if mode == "CMYK" else "PNG"
    assert reading(encoded(Image.new(mode, (2, 2)), form)).mode == "RGB"


def test_a_picture_over_the_limit_is_refused_by_its_header() -> None:
    """A file of 200 bytes that claims 900 million pixels: nothing of it is decoded."""
    honest = encoded(Image.new("L", (1, 1)))
    claimed = (30_000).to_bytes(4, "big") * 2
    header = honest[12:16] + claimed + honest[24:29]
    bomb = honest[:12] + header + zlib.crc32(header).to_bytes(4, "big") + honest[33:]
    with pytest.raises(Refusal, match="IMAGE_TOO_LARGE item=0 pixels=900000000 pixels_max=1000000"):
        reading(bomb)


@pytest.mark.parametrize("keep", [0, 1, 20, 60, -1])
def test_a_torn_file_is_refused(keep: int) -> None:
    content = encoded(quarters(), "JPEG")
    with pytest.raises(Refusal, match="IMAGE_UNREADABLE"):
        reading(content[:keep] if keep >= 0 else content[:-40])
