"""Long audio, window by window: tokens with timestamps become segments, and the last timestamp moves the window on.

The rules and their figures are those of "Robust Speech Recognition via Large-Scale Weak Supervision" (Radford et al.,
2022), section 4.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ctranslate2
import numpy as np
import tokenizers
from numpy.typing import NDArray

from engines.whisper.audio import Audio
from engines.whisper.features import FRAMES_PER_SECOND, WINDOW_FRAMES, log_mel
from engines.whisper.parameters import Parameters
from engines.whisper.segments import Heard, Segment, compression_ratio, segments_of, split_at_timestamps

# What did not make sense is tried again, hotter.
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
BEAM_SIZE = 5
# Of a window's 448 tokens half may be what was said before.
TOKENS_MAX = 448
PROMPT_TOKENS_MAX = TOKENS_MAX // 2 - 1
# Text begins at most a second into a window, in timestamps of 0.02 s.
FIRST_TIMESTAMP_MAX = 50


class Recognizer:
    """An English Whisper model with its tokenizer.

    Args:
        folder: Holds `model.bin`, `config.json`, `vocabulary.txt` and `tokenizer.json`.
        threads: Threads of one run.

    Raises:
        ValueError: a multilingual model, which needs a language with every window.
    """

    def __init__(self, folder: str, *, threads: int) -> None:
        self._model = ctranslate2.models.Whisper(
            folder, device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads
        )
        if self._model.is_multilingual:
            raise ValueError("the model is multilingual; this engine runs English-only ones, such as tiny.en")
        self._tokenizer = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
        self._begin = self._token("<|startoftranscript|>")
        self._before = self._token("<|startofprev|>")
        self._end_of_text = self._token("<|endoftext|>")
        # Timestamps follow the last special token; tokenizers do not always name them.
        self.first_timestamp = self._token("<|notimestamps|>") + 1

    def prompt_tokens(self, prompt: str) -> list[int]:
        """What goes before a window; the end of a long prompt is what counts."""
        if not prompt.strip():
            return []
        ids = self._tokenizer.encode(f" {prompt.strip()}", add_special_tokens=False).ids
        # Special tokens that a caller wrote as text would be read as the model's own.
        return [self._before, *[token for token in ids if token < self._end_of_text][-PROMPT_TOKENS_MAX:]]

    def hear(self, window: NDArray[np.float32], prompt: Sequence[int], temperatures: Sequence[float]) -> Heard:
        """Transcribe one window, FP32 [80, frames]; shorter ones than 30 s are for trying the model out."""
        encoded = self._model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(window[None])))
        heard: Heard | None = None
        for temperature in temperatures:
            heard = self._decode(encoded, [*prompt, self._begin], temperature)
            if heard.makes_sense:
                break
        assert heard is not None, "no temperature"  # noqa: S101 - a bug, not an input
        return heard

    def text(self, tokens: Sequence[int]) -> str:
        """Text without timestamps and other special tokens."""
        decoded: str = self._tokenizer.decode([token for token in tokens if token < self._end_of_text])
        return decoded

    def _decode(self, encoded: Any, prompt: list[int], temperature: float) -> Heard:
        how: dict[str, Any] = {"beam_size": BEAM_SIZE}
        if temperature > 0:
            how = {"beam_size": 1, "sampling_topk": 0, "sampling_temperature": temperature}
        (result,) = self._model.generate(
            encoded,
            [prompt],
            max_length=TOKENS_MAX,
            max_initial_timestamp_index=FIRST_TIMESTAMP_MAX,
            return_scores=True,
            return_no_speech_prob=True,
            **how,
        )
        tokens = tuple(result.sequences_ids[0])
        text = self.text(tokens).strip()
        return Heard(
            tokens=tokens,
            text=text,
            temperature=temperature,
            # The score is a mean over the tokens; the end of the text counts as one more.
            avg_logprob=result.scores[0] * len(tokens) / (len(tokens) + 1),
            compression_ratio=compression_ratio(text),
            no_speech_prob=result.no_speech_prob,
        )

    def _token(self, text: str) -> int:
        token: int | None = self._tokenizer.token_to_id(text)
        if token is None:
            raise ValueError(f"the tokenizer has no {text}")
        return token


class Transcript:
    """One file on its way through the model, a window at a time."""

    def __init__(self, recognizer: Recognizer, audio: Audio, parameters: Parameters) -> None:
        self._recognizer = recognizer
        self._mel = log_mel(audio.samples)
        self._frames = self._mel.shape[1] - WINDOW_FRAMES
        self._milliseconds = audio.milliseconds
        self._prompt = recognizer.prompt_tokens(parameters.prompt)
        self._temperatures = (parameters.temperature,) if parameters.temperature else TEMPERATURES
        self._seek = 0
        self._told_ms = 0

    @property
    def is_whole(self) -> bool:
        return self._seek >= self._frames

    def advance(self) -> list[Segment]:
        """Transcribe the next window and move on to where it ended."""
        seek = self._seek
        window = self._mel[:, seek : seek + WINDOW_FRAMES]
        heard = self._recognizer.hear(window, self._prompt, self._temperatures)
        frames = min(WINDOW_FRAMES, self._frames - seek)
        if heard.is_silence or not heard.text:
            self._seek += frames
            return []
        pieces, frames_read = split_at_timestamps(heard.tokens, self._recognizer.first_timestamp, frames)
        self._seek += frames_read
        return segments_of(pieces, heard, seek, self._recognizer.text)

    def untold_milliseconds(self) -> int:
        """Audio read since the last call of this method; the sum over a whole file is its length."""
        read_ms = self._milliseconds if self.is_whole else self._seek * 1000 // FRAMES_PER_SECOND
        untold, self._told_ms = read_ms - self._told_ms, read_ms
        return untold
