"""Audio files to what Whisper hears: one channel, 16,000 samples a second, with the exact length of what was decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import miniaudio
import numpy as np
from numpy.typing import NDArray

from engines.refusals import Refusal
from engines.whisper.resampling import resample

# Speech has nothing above; at higher rates a file of the longest length would fill the instance's memory.
RATE_MIN, RATE_MAX = 8_000, 48_000
CHANNELS_MAX = 8
MILLISECONDS_MIN = 100
FORMATS = "wav,flac,mp3,ogg"
_BLOCK_FRAMES = 65_536
_Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Audio:
    """Decoded audio.

    Attributes:
        samples: FP32 [N] at 16,000 a second, -1 to 1.
        milliseconds: Whole ones of the decoded length; one that is not full does not count.
    """

    samples: _Samples
    milliseconds: int


def decode(content: bytes, *, seconds_max: int) -> Audio:
    """Decode a file; its channels are averaged.

    Decoding stops where the limit is passed, so that a small file cannot unfold into a large one.

    Raises:
        Refusal: AUDIO_UNREADABLE, AUDIO_TOO_SHORT or AUDIO_TOO_LONG.
    """
    try:
        info = _information(content)
    except miniaudio.MiniaudioError:
        raise _unreadable() from None
    if not RATE_MIN <= info.sample_rate <= RATE_MAX:
        raise Refusal("INVALID_PARAMETER", name="sample_rate", allowed=f"{RATE_MIN}..{RATE_MAX}")
    if not 1 <= info.nchannels <= CHANNELS_MAX:
        raise Refusal("INVALID_PARAMETER", name="channels", allowed=f"1..{CHANNELS_MAX}")
    frames_max = seconds_max * info.sample_rate
    blocks: list[_Samples] = []
    frame_count = 0
    try:
        for block in _blocks(content, info):
            blocks.append(block.mean(axis=1, dtype=np.float32))
            frame_count += len(block)
            if frame_count > frames_max:
                raise Refusal("AUDIO_TOO_LONG", seconds_max=seconds_max)
    except miniaudio.MiniaudioError:
        raise _unreadable() from None
    milliseconds = frame_count * 1000 // info.sample_rate
    if milliseconds < MILLISECONDS_MIN:
        raise Refusal("AUDIO_TOO_SHORT", milliseconds=milliseconds, milliseconds_min=MILLISECONDS_MIN)
    return Audio(resample(np.concatenate(blocks), info.sample_rate), milliseconds)


def _information(content: bytes) -> Any:
    if content[:4] in (b"RIFF", b"RIFX", b"RF64") and content[8:12] == b"WAVE":
        return miniaudio.wav_get_info(content)
    if content[:4] == b"fLaC":
        return miniaudio.flac_get_info(content)
    if content[:4] == b"OggS":
        return miniaudio.vorbis_get_info(content)
    if content[:3] == b"ID3" or (content[:1] == b"\xff" and content[1:2] >= b"\xe0"):
        return miniaudio.mp3_get_info(content)
    raise _unreadable()


def _blocks(content: bytes, info: Any) -> Any:
    """Decoded frames as the file has them, FP32 [frames, channels], block by block."""
    stream = miniaudio.stream_memory(
        content,
        output_format=miniaudio.SampleFormat.FLOAT32,
        nchannels=info.nchannels,
        sample_rate=info.sample_rate,
        frames_to_read=_BLOCK_FRAMES,
    )
    for block in stream:
        yield np.frombuffer(block, np.float32).reshape(-1, info.nchannels)


def _unreadable() -> Refusal:
    return Refusal("AUDIO_UNREADABLE", allowed=FORMATS)
