"""Calls with audio and images: what is asked, checked, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.inference.domain.errors import RequestInvalid

PROMPT_CHARACTERS_MAX = 4096
LANGUAGE_CHARACTERS_MAX = 16
IMAGES_MAX = 16
TOP_K_DEFAULT = 5
TOP_K_MAX = 1000


@dataclass(frozen=True, slots=True)
class Listening:
    """How audio is transcribed; what is empty or None is the model's to decide."""

    language: str = ""
    prompt: str = ""
    temperature: float | None = None

    def parameters(self) -> dict[str, object]:
        """The speech engines' parameters."""
        named: dict[str, object] = {
            "language": self.language or None,
            "prompt": self.prompt or None,
            "temperature": self.temperature,
        }
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of speech, as speech engines say it: `start` and `end` in seconds, `seek` in hundredths."""

    seek: int
    start: float
    end: float
    text: str
    tokens: Sequence[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


@dataclass(frozen=True, slots=True)
class Label:
    """One thing an image may show, and its probability."""

    label: str
    score: float


def check_audio(audio: bytes, listening: Listening) -> None:
    """Audio that can be asked about; what is in the file is the engine's to judge.

    Raises:
        RequestInvalid: naming the field, its value and what is allowed.
    """
    if not audio:
        raise RequestInvalid("file is empty; send a WAV, FLAC, MP3 or Ogg Vorbis file", field="file")
    if len(listening.prompt) > PROMPT_CHARACTERS_MAX:
        raise RequestInvalid(
            f"prompt has {len(listening.prompt)} characters; at most {PROMPT_CHARACTERS_MAX} are allowed",
            field="prompt",
        )
    if len(listening.language) > LANGUAGE_CHARACTERS_MAX or not listening.language.isascii():
        raise RequestInvalid(f"language {listening.language[:32]!r} is no code such as 'en'", field="language")
    # The comparison is written so that NaN, which is in no range, is refused too.
    if listening.temperature is not None and not 0 <= listening.temperature <= 1:
        raise RequestInvalid(f"temperature is {listening.temperature}; 0 to 1 are allowed", field="temperature")


def check_images(images: Sequence[bytes], top_k: int) -> None:
    """Images that can be asked about; what is in the files is the engine's to judge.

    Raises:
        RequestInvalid: naming the field, its value and what is allowed.
    """
    if not 1 <= len(images) <= IMAGES_MAX:
        raise RequestInvalid(f"image has {len(images)} files; 1 to {IMAGES_MAX} are allowed", field="image")
    for index, image in enumerate(images):
        if not image:
            raise RequestInvalid(f"image[{index}] is empty; send a JPEG, PNG or WebP file", field="image")
    if not 1 <= top_k <= TOP_K_MAX:
        raise RequestInvalid(f"top_k is {top_k}; 1 to {TOP_K_MAX} are allowed", field="top_k")
