"""Whisper's front end: the spectrogram it was trained with, and sound brought to its rate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engines.whisper.features import MEL_BANDS, WINDOW_FRAMES, log_mel, mel_filters
from engines.whisper.resampling import resample
from tests.unit.engines.make_reference_features import chirp

REFERENCE = json.loads(Path(__file__).with_name("reference_features.json").read_text())


def sine(hz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate).astype(np.float32)


def test_the_spectrogram_is_the_reference_implementations() -> None:
    """Reference: make_reference_features.py, faster-whisper's front end on the same sound."""
    features = log_mel(chirp())
    assert list(features.shape) == REFERENCE["shape"]
    for frame, expected in REFERENCE["frames"].items():
        assert features[:, int(frame)] == pytest.approx(expected, abs=2e-5)


def test_a_spectrogram_has_a_frame_each_ten_milliseconds_and_thirty_seconds_of_silence_behind() -> None:
    """So that every window from any place in the sound is whole."""
    assert log_mel(sine(440, 16_000, 1.5)).shape == (MEL_BANDS, 150 + WINDOW_FRAMES)


def test_the_filters_have_unit_area_and_leave_no_gap() -> None:
    """Slaney's normalisation: the area of a triangle over frequency, in Hz, is one."""
    filters = mel_filters()
    assert filters.shape == (80, 201)
    assert (filters[50:].sum(axis=1) * 40) == pytest.approx(1, abs=0.02)
    assert (filters.sum(axis=0)[1:200] > 0).all()


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 12_345])
def test_a_sound_is_the_same_at_another_rate(rate: int) -> None:
    """Any rational ratio, to a ten-thousandth inside the edges; its length is kept to a sample."""
    heard = resample(sine(1_000, rate), rate)
    assert len(heard) == 16_000
    assert heard[400:-400] == pytest.approx(sine(1_000, 16_000)[400:-400], abs=1e-4)


def test_what_the_slower_rate_cannot_hold_is_taken_out() -> None:
    """A tone above its middle would come back as a lower one."""
    assert np.abs(resample(sine(9_500, 48_000), 48_000)[400:-400]).max() < 0.01


def test_sound_at_its_own_rate_is_left_alone() -> None:
    sound = sine(440, 16_000)
    assert resample(sound, 16_000) is sound


@pytest.mark.parametrize("length", [1, 2, 7])
def test_the_shortest_sounds_do_not_break_it(length: int) -> None:
    assert len(resample(np.ones(length, np.float32), 48_000)) == -(-length // 3)
