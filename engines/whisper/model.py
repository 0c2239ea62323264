"""Triton Python-backend model that transcribes speech with Whisper on CTranslate2; tensors: README.md in this folder."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

# Read when libgomp loads: its default, spinning, collapses as soon as two threads share a core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import triton_python_backend_utils as pb

from engines.canary import CANARY_PREFIX, Pulse
from engines.refusals import Refusal
from engines.token_log import TokenLog
from engines.whisper.audio import decode
from engines.whisper.features import MEL_BANDS
from engines.whisper.parameters import LANGUAGES, read_parameters
from engines.whisper.transcript import Recognizer, Segment, Transcript

FINAL = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL
# How often a file that waits for its turn says so: callers take a long silence for the end of the engine.
WAITING_S = 10.0
# The canary's window: one second of silence, so that looking at an idle engine costs next to nothing.
CANARY_FRAMES = 100


class TritonPythonModel:
    """One recognizer; up to `slots` files take turns at it, a window each."""

    def initialize(self, args: dict[str, str]) -> None:
        given = {k: v["string_value"] for k, v in json.loads(args["model_config"]).get("parameters", {}).items()}
        self.seconds_max = int(given.get("seconds_max", "600"))
        self._slots = int(given.get("slots", "4"))
        self._waiting_max = int(given.get("waiting_max", "8"))
        token_log = given.get("token_log", "")
        self.log = TokenLog(Path(token_log) if token_log else None)
        threads = int(given.get("threads", "0")) or len(os.sched_getaffinity(0))
        folder = Path(args["model_repository"]) / args["model_version"]
        self.recognizer = Recognizer(str(folder), threads=threads)
        self.pulse = Pulse()
        self.stopping = False
        # Files that wait for a slot, and those that have one; guarded by the condition.
        self._waiting: deque[_Call] = deque()
        self._turns: deque[_Call] = deque()
        self._changed = threading.Condition()
        self._worker = threading.Thread(target=self._work, name="transcribe")
        self._worker.start()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            call = _Call(self, request)
            if call.is_canary:
                threading.Thread(target=call.answer_canary, name="canary").start()
            else:
                self._take(call)

    def finalize(self) -> None:
        with self._changed:
            self.stopping = True
            self._changed.notify_all()
        self._worker.join()
        # Before the interpreter ends: CTranslate2's threads cannot end after it.
        del self.recognizer
        self.log.close()

    def _take(self, call: _Call) -> None:
        with self._changed:
            waiting = len(self._waiting)
            if waiting < self._waiting_max:
                self._waiting.append(call)
                self._changed.notify_all()
                return
        call.fail(Refusal("ENGINE_BUSY", waiting=waiting, waiting_max=self._waiting_max), pb.TritonError.UNAVAILABLE)

    def _work(self) -> None:
        while (call := self._next()) is not None:
            # One that has more windows goes behind the others: a long file does not hold up short ones.
            with self.pulse.running():
                goes_on = call.advance()
            self.pulse.beat()
            with self._changed:
                if goes_on:
                    self._turns.append(call)
                others = [*self._turns, *self._waiting]
            for other in others:
                other.say_waiting()

    def _next(self) -> _Call | None:
        """The file whose turn it is; None when the engine stops and no file is left."""
        with self._changed:
            while not (self._waiting or self._turns or self.stopping):
                self._changed.wait()
            while self._waiting and len(self._turns) < self._slots:
                self._turns.append(self._waiting.popleft())
            return self._turns.popleft() if self._turns else None


class _Call:
    """One request on its way through the engine."""

    def __init__(self, model: TritonPythonModel, request: Any) -> None:
        self._model = model
        self._sender = request.get_response_sender()
        self._request_id = request.request_id()
        self._audio = bytes(_scalar(request, "AUDIO", b""))
        self._parameters = bytes(_scalar(request, "PARAMETERS", b"")).decode("utf-8", errors="replace")
        self._transcript: Transcript | None = None
        self._said_at_s = time.monotonic()
        self._read_ms = 0

    @property
    def is_canary(self) -> bool:
        return self._request_id.startswith(CANARY_PREFIX)

    def answer_canary(self) -> None:
        """Answer "busy" once another call gets on; run the model when there is none; stay silent when they hang."""
        if self._model.pulse.feel(self._gone):
            self._end("busy")
            return
        try:
            self._model.recognizer.hear(np.zeros((MEL_BANDS, CANARY_FRAMES), np.float32), (), (0.0,))
        except Exception as failure:  # noqa: BLE001 - said to the keeper, which starts the engine again
            self.fail(_failure(failure), pb.TritonError.INTERNAL)
            return
        self._end("stop")

    def advance(self) -> bool:
        """Transcribe the next window and send it; whether there is more to do."""
        try:
            if self._gone():
                self._end("cancelled")
                return False
            if self._transcript is None:
                self._transcript = self._begin()
            segments = self._transcript.advance()
            whole = self._transcript.is_whole
            self._send(segments, self._transcript.untold_milliseconds(), "stop" if whole else "None")
        except Refusal as refusal:
            self.fail(refusal, pb.TritonError.INVALID_ARG)
            return False
        except Exception as failure:  # noqa: BLE001 - one bad file must not end the engine
            self.fail(_failure(failure), pb.TritonError.INTERNAL)
            return False
        return not whole

    def say_waiting(self) -> None:
        """An empty response where the last one was long ago."""
        if time.monotonic() - self._said_at_s > WAITING_S:
            self._send([], 0, "None")

    def fail(self, error: Exception, code: int) -> None:
        self._write_log("refused" if isinstance(error, Refusal) else "failed")
        self._sender.send(pb.InferenceResponse(error=pb.TritonError(str(error), code)), flags=FINAL)

    def _begin(self) -> Transcript:
        parameters = read_parameters(self._parameters)
        audio = decode(self._audio, seconds_max=self._model.seconds_max)
        self._audio = b""
        return Transcript(self._model.recognizer, audio, parameters)

    def _gone(self) -> bool:
        return self._model.stopping or bool(self._sender.is_cancelled())

    def _end(self, finish_reason: str) -> None:
        self._send([], 0, finish_reason)

    def _send(self, segments: list[Segment], milliseconds: int, finish_reason: str) -> None:
        self._read_ms += milliseconds
        self._said_at_s = time.monotonic()
        if finish_reason != "None":
            self._write_log(finish_reason)
        said = [json.dumps(segment.facts()).encode() for segment in segments]
        tensors = [
            pb.Tensor("SEGMENTS", np.asarray(said, dtype=np.object_)),
            pb.Tensor("AUDIO_MILLISECONDS", np.asarray([milliseconds], np.int64)),
            pb.Tensor("LANGUAGE", np.asarray([LANGUAGES[0].encode()], dtype=np.object_)),
            pb.Tensor("FINISH_REASON", np.asarray([finish_reason.encode()], dtype=np.object_)),
        ]
        self._sender.send(pb.InferenceResponse(tensors), flags=0 if finish_reason == "None" else FINAL)

    def _write_log(self, end: str) -> None:
        if not self.is_canary:
            self._model.log.write(self._request_id, end=end, audio_milliseconds=self._read_ms)


def _scalar(request: Any, name: str, default: Any) -> Any:
    tensor = pb.get_input_tensor_by_name(request, name)
    return default if tensor is None else tensor.as_numpy().reshape(-1)[0]


def _failure(error: Exception) -> Exception:
    # The type alone: the text of an unforeseen error may quote the prompt.
    return RuntimeError(f"ENGINE_FAILED type={type(error).__name__}")
