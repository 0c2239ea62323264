"""Whisper's front end: a log-mel spectrogram."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
MEL_BANDS = 80
FRAME_SAMPLES = 400
HOP_SAMPLES = 160
FRAMES_PER_SECOND = SAMPLE_RATE // HOP_SAMPLES
# What the model looks at at once: 30 s.
WINDOW_FRAMES = 3_000
# Frames transformed together; bounds the memory of a long file.
_BLOCK_FRAMES = 3_000


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The spectrogram of audio followed by 30 s of silence, so that every window from any place in it is whole.

    Returns:
        FP32 [MEL_BANDS, F]; the last WINDOW_FRAMES frames are the silence's.
    """
    silence = np.zeros(WINDOW_FRAMES * HOP_SAMPLES, np.float32)
    padded = np.pad(np.concatenate([samples, silence]), FRAME_SAMPLES // 2, mode="reflect")
    # Periodic, as torch.hann_window; the frame after the last whole hop is left out.
    window = np.hanning(FRAME_SAMPLES + 1)[:-1].astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME_SAMPLES)[::HOP_SAMPLES][:-1]
    mel = np.empty((MEL_BANDS, len(frames)), np.float32)
    for start in range(0, len(frames), _BLOCK_FRAMES):
        block = frames[start : start + _BLOCK_FRAMES]
        power = np.abs(np.fft.rfft(block * window)).astype(np.float32) ** 2
        mel[:, start : start + len(block)] = mel_filters() @ power.T
    logarithm = np.log10(np.maximum(mel, 1e-10))
    scaled: NDArray[np.float32] = (np.maximum(logarithm, logarithm.max() - 8.0) + 4.0) / 4.0
    return scaled


@cache
def mel_filters() -> NDArray[np.float32]:
    """Triangles on Slaney's mel scale (linear to 1 kHz, then logarithmic), each of unit area; FP32 [MEL_BANDS, 201]."""
    bins_hz = np.fft.rfftfreq(FRAME_SAMPLES, 1 / SAMPLE_RATE)
    corners_hz = _hz_of_mel(np.linspace(0.0, _mel_of_hz(SAMPLE_RATE / 2), MEL_BANDS + 2))
    widths_hz = np.diff(corners_hz)
    rising = (bins_hz[None] - corners_hz[:-2, None]) / widths_hz[:-1, None]
    falling = (corners_hz[2:, None] - bins_hz[None]) / widths_hz[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * (2.0 / (corners_hz[2:] - corners_hz[:-2]))[:, None]).astype(np.float32)


_LINEAR_HZ = 200.0 / 3.0
_KNEE_HZ = 1000.0
_KNEE_MEL = _KNEE_HZ / _LINEAR_HZ
_LOG_STEP = np.log(6.4) / 27.0


def _mel_of_hz(hz: float) -> float:
    """A frequency above the knee."""
    return float(_KNEE_MEL + np.log(hz / _KNEE_HZ) / _LOG_STEP)


def _hz_of_mel(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    hz: NDArray[np.float64] = np.where(
        mel < _KNEE_MEL, mel * _LINEAR_HZ, _KNEE_HZ * np.exp(_LOG_STEP * (mel - _KNEE_MEL))
    )
    return hz
