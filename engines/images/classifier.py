"""Image files to labels with scores: decoded within limits, prepared as the model was trained, run by ONNX Runtime."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps

from engines.refusals import Refusal

FORMATS = ("JPEG", "PNG", "WEBP")
# `pixels_max` is the limit, and it is looked at before a pixel is decoded; Pillow's own would answer in its place.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class Preparation:
    """From a picture to the model's input: the shorter side to `resize`, and a square of `crop` from the middle of it.

    Attributes:
        resize: Length of the shorter side, in pixels; of both sides where `square`.
        square: Whether both sides are resized, whatever the proportions.
        crop: Side of the square, in pixels.
        channels: "RGB" or "BGR".
        layout: "NCHW" or "NHWC".
        mean: Taken from each channel's value, 0 to 255, in the order of `channels`.
        deviation: Each difference is divided by it.
    """

    resize: int
    square: bool
    crop: int
    channels: str
    layout: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def from_parameters(cls, given: Mapping[str, str]) -> Preparation:
        """As an instance's parameters say; the defaults are those of ImageNet models.

        Raises:
            ValueError: a value that is none of the allowed ones.
        """
        prepared = cls(
            resize=int(given.get("resize", "256")),
            square=_word(given, "resize_to", ("shorter_side", "square")) == "square",
            crop=int(given.get("crop", "224")),
            channels=_word(given, "channels", ("RGB", "BGR")),
            layout=_word(given, "layout", ("NCHW", "NHWC")),
            mean=_three(given.get("mean", "123.675,116.28,103.53")),
            deviation=_three(given.get("deviation", "58.395,57.12,57.375")),
        )
        if not 1 <= prepared.crop <= prepared.resize:
            raise ValueError(f"crop is {prepared.crop}; 1 to resize ({prepared.resize}) is allowed")
        return prepared

    def apply(self, picture: Image.Image) -> NDArray[np.float32]:
        """FP32 [C, H, W] or [H, W, C], as `layout` says."""
        # Only the part that the crop keeps is resized, in one step: a very long picture costs no more than another.
        width, height = picture.size if self.square else (min(picture.size), min(picture.size))
        right, down = width * self.crop / self.resize / 2, height * self.crop / self.resize / 2
        x, y = picture.width / 2, picture.height / 2
        cut = picture.resize(
            (self.crop, self.crop), Image.Resampling.BILINEAR, (x - right, y - down, x + right, y + down)
        )
        values = np.asarray(cut, np.float32)
        if self.channels == "BGR":
            values = values[:, :, ::-1]
        scaled = (values - np.asarray(self.mean, np.float32)) / np.asarray(self.deviation, np.float32)
        return np.ascontiguousarray(scaled.transpose(2, 0, 1) if self.layout == "NCHW" else scaled)


@dataclass(frozen=True)
class Classified:
    """Labels with their probabilities, the most probable first."""

    labels: tuple[str, ...]
    scores: tuple[float, ...]


class Classifier:
    """An ONNX model whose one output is a probability a label, FP32 [B, L].

    Args:
        model_file: Its one input is FP32 [B, 3, H, W] or [B, H, W, 3].
        labels: Names of the outputs, in their order.
        preparation: Of every picture.
        pixels_max: Largest picture, width x height.
        threads: Threads of one run.
    """

    def __init__(
        self, model_file: Path, labels: Sequence[str], preparation: Preparation, *, pixels_max: int, threads: int
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads take the core from the process that waits for the answer.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(model_file), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        (output,) = self._session.get_outputs()
        if output.shape[-1] != len(labels):
            raise ValueError(f"the model has {output.shape[-1]} outputs and labels names {len(labels)}")
        self._labels = tuple(labels)
        self._preparation = preparation
        self._pixels_max = pixels_max

    def prepare(self, files: Sequence[bytes]) -> NDArray[np.float32]:
        """Decode files, order kept.

        Raises:
            Refusal: IMAGE_UNREADABLE or IMAGE_TOO_LARGE, with the file's place (`item`, from 0).
        """
        pictures = (read_picture(file, item=item, pixels_max=self._pixels_max) for item, file in enumerate(files))
        return np.stack([self._preparation.apply(picture) for picture in pictures])

    def classify(self, prepared: NDArray[np.float32]) -> list[Classified]:
        """The labels of prepared pictures, one after the other: what one needs does not depend on its neighbours."""
        return [self._classify_one(picture) for picture in prepared]

    def _classify_one(self, picture: NDArray[np.float32]) -> Classified:
        scores = self._session.run(None, {self._input: picture[None]})[0][0]
        order = np.argsort(-scores, kind="stable")
        return Classified(tuple(self._labels[at] for at in order), tuple(float(scores[at]) for at in order))


def read_picture(content: bytes, *, item: int, pixels_max: int) -> Image.Image:
    """Decode a file, upright and in three channels.

    Args:
        item: Its place among others, for the refusal.
        pixels_max: Largest picture, width x height; its header says how large it is before a pixel is decoded.

    Raises:
        Refusal: IMAGE_UNREADABLE or IMAGE_TOO_LARGE.
    """
    try:
        # Only these decoders look at the file.
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            pixels = picture.width * picture.height
            if pixels <= pixels_max:
                return _on_white(ImageOps.exif_transpose(picture))
    except Exception:  # noqa: BLE001 - decoders fail in many ways on files that are none
        raise Refusal("IMAGE_UNREADABLE", item=item, allowed=",".join(FORMATS)) from None
    raise Refusal("IMAGE_TOO_LARGE", item=item, pixels=pixels, pixels_max=pixels_max)


def _on_white(picture: Image.Image) -> Image.Image:
    """Three channels; what is transparent shows white, as on a page."""
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        page = Image.new("RGBA", picture.size, "white")
        page.alpha_composite(picture.convert("RGBA"))
        picture = page
    return picture.convert("RGB")


def _word(given: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    value = given.get(name, allowed[0])
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; {' and '.join(allowed)} are allowed")
    return value


def _three(text: str) -> tuple[float, ...]:
    values = tuple(float(value) for value in text.split(","))
    if len(values) != 3:
        raise ValueError(f"{text!r} has {len(values)} values; 3 are needed, one a channel")
    return values
