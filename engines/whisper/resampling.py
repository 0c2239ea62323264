"""Audio of one sampling rate at another."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from engines.whisper.features import SAMPLE_RATE

# Taps of the low-pass filter on each side, in samples of the slower of the two rates.
_FILTER_HALF_WIDTH = 16


def resample(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Samples at `rate` as samples at SAMPLE_RATE, through a windowed-sinc low-pass; a rational ratio, exactly."""
    if rate == SAMPLE_RATE:
        return samples
    common = math.gcd(rate, SAMPLE_RATE)
    up, down = SAMPLE_RATE // common, rate // common
    half = _FILTER_HALF_WIDTH * max(up, down)
    position = np.arange(-half, half + 1) / max(up, down)
    taps = np.sinc(position) * np.hanning(2 * half + 3)[1:-1] * (up / max(up, down))
    reach = half // up + 1
    padded = np.pad(samples, (reach, reach))
    count = -(-len(samples) * up // down)
    out = np.zeros(count, np.float32)
    # Output n lies at input n·down/up: all outputs of one phase use the same taps, one step of `down` inputs apart.
    for phase in range(min(up, count)):
        first, offset = divmod(phase * down, up)
        index = np.arange(-reach, reach + 1)
        at = half + offset - index * up
        inside = (at >= 0) & (at <= 2 * half)
        weights = np.zeros(len(index))
        weights[inside] = taps[at[inside]]
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)[first::down]
        places = out[phase::up]
        places[:] = windows[: len(places)] @ weights.astype(np.float32)
    return out
