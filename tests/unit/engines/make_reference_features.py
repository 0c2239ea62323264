"""Makes reference_features.json: what faster-whisper 1.2.1 (MIT) makes of a sound, at a few places.

Run with the wheel unpacked beside it: python make_reference_features.py FOLDER-OF-THE-UNPACKED-WHEEL
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SECONDS = 2
# Frames at the edges, inside, where the sound ends and in the silence behind it.
FRAMES = [0, 1, 57, 123, 198, 199, 200, 201, 3199]


def chirp() -> np.ndarray:
    """Two seconds that go from 100 Hz to 8 kHz, and fade."""
    at = np.arange(SECONDS * 16_000) / 16_000
    return (0.5 * np.exp(-at) * np.sin(2 * np.pi * (100 * at + 7_900 * at**2 / 4))).astype(np.float32)


def main() -> None:
    source = Path(sys.argv[1]) / "faster_whisper" / "feature_extractor.py"
    spec = importlib.util.spec_from_file_location("feature_extractor", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    features = module.FeatureExtractor()(np.concatenate([chirp(), np.zeros(480_000, np.float32)]), padding=0)
    frames = {str(frame): [round(float(value), 6) for value in features[:, frame]] for frame in FRAMES}
    (HERE / "reference_features.json").write_text(json.dumps({"shape": features.shape, "frames": frames}) + "\n")


if __name__ == "__main__":
    main()
