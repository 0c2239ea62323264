"""Triton Python-backend model that runs llama.cpp; tensors and their meaning: README.md in this folder."""

from __future__ import annotations

import json
import os
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Read when libgomp loads: its default, spinning, collapses as soon as two threads share a core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import triton_python_backend_utils as pb
import xllamacpp

from engines.canary import CANARY_PREFIX, Pulse
from engines.llamacpp.generation import REPORTING, EngineFailure, Generation
from engines.llamacpp.sampling import completion_options
from engines.refusals import Refusal
from engines.token_log import TokenLog

FINAL = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """One llama.cpp server with `slots` sequences decoded together."""

    def initialize(self, args: dict[str, str]) -> None:
        given = {k: v["string_value"] for k, v in json.loads(args["model_config"]).get("parameters", {}).items()}
        slots = int(given.get("slots", "8"))
        context_tokens = int(given.get("context_tokens", "2048"))
        threads = int(given.get("threads", "0")) or len(os.sched_getaffinity(0))
        self._waiting_max = int(given.get("waiting_max", "256"))
        token_log = given.get("token_log", "")
        folder = Path(args["model_repository"]) / args["model_version"]

        params = xllamacpp.CommonParams()
        params.model.path = str(folder / given["model_file"])
        params.model_alias = {args["model_name"]}
        params.n_parallel = slots
        params.n_ctx = context_tokens * params.n_parallel
        params.kv_unified = False
        params.ctx_shift = False
        params.n_batch = params.n_ubatch = int(given.get("batch_tokens", "256"))
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.cache_prompt = given.get("prompt_cache", "false") == "true"
        params.cache_ram_mib = 0
        params.verbosity = 0
        params.ui = False
        # xllamacpp always opens an HTTP port on loopback; nobody gets its key.
        params.api_keys = [secrets.token_hex(32)]
        self._cache_prompt = params.cache_prompt
        self._server = xllamacpp.Server(params)
        self._log = TokenLog(Path(token_log) if token_log else None)
        self._stopping = False
        self._lock = threading.Lock()
        self._waiting = 0
        self._pulse = Pulse()
        self._workers = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="generate")
        self._canary_worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="canary")

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            _Call(self, request).submit()

    def finalize(self) -> None:
        self._stopping = True
        for workers in (self._workers, self._canary_worker):
            workers.shutdown(wait=True, cancel_futures=True)
        self._server = None
        self._log.close()


class _Call:
    """One request on its way through the engine."""

    def __init__(self, model: TritonPythonModel, request: Any) -> None:
        self._model = model
        self._sender = request.get_response_sender()
        self._request_id = request.request_id()
        self._generation = Generation()
        self._wants = {
            name: bool(_scalar(request, f"return_{name}", False))
            for name in ("finish_reason", "num_input_tokens", "num_output_tokens")
        }
        self._stream = bool(_scalar(request, "stream", False))
        self._text_input = _text(_scalar(request, "text_input", b""))
        self._sampling_parameters = _text(_scalar(request, "sampling_parameters", b""))
        self._exclude_input = bool(_scalar(request, "exclude_input_in_output", self._stream))
        self._error: Exception | None = None
        self._pieces: list[str] = []

    def submit(self) -> None:
        model = self._model
        if self._request_id.startswith(CANARY_PREFIX):
            model._canary_worker.submit(self._run_canary)
            return
        with model._lock:
            full = model._waiting >= model._waiting_max
            model._waiting += not full
        if full:
            self._fail(
                Refusal("ENGINE_BUSY", waiting=model._waiting, waiting_max=model._waiting_max),
                pb.TritonError.UNAVAILABLE,
            )
        else:
            model._workers.submit(self._run_counted)

    def _run_counted(self) -> None:
        with self._model._lock:
            self._model._waiting -= 1
        self._run()

    def _run_canary(self) -> None:
        """Answer "busy" once another call gets on; generate when there is none; stay silent when they hang."""
        if self._model._pulse.feel(self._gone):
            self._end("busy")
        else:
            self._run()

    def _run(self) -> None:
        with self._model._pulse.running():
            self._generate()

    def _generate(self) -> None:
        try:
            body = self._body()
            if self._gone():
                self._end("cancelled")
                return
            refused = self._model._server.handle_completions(body, self._on_events)
            if self._error is not None:
                raise self._error
            if isinstance(refused, dict) and "error" in refused:
                self._generation.take(refused)
            if self._generation.finish_reason:
                self._end(self._generation.finish_reason)
            elif self._gone():
                self._end("cancelled")
            else:
                raise EngineFailure("ENGINE_FAILED type=ended_without_a_reason")
        except Refusal as refusal:
            self._fail(refusal, pb.TritonError.INVALID_ARG)
        except EngineFailure as failure:
            self._fail(failure, pb.TritonError.INTERNAL)
        except Exception as failure:  # noqa: BLE001 - one bad prompt must not end the engine
            # The type alone: the text of an unforeseen error may quote the prompt.
            self._fail(EngineFailure(f"ENGINE_FAILED type={type(failure).__name__}"), pb.TritonError.INTERNAL)

    def _body(self) -> dict[str, Any]:
        if not self._text_input:
            raise Refusal("PROMPT_EMPTY")
        if self._stream and not self._exclude_input:
            raise Refusal("INVALID_PARAMETER", name="exclude_input_in_output", allowed="true_when_stream")
        return {
            **completion_options(self._sampling_parameters),
            **REPORTING,
            "prompt": self._text_input,
            "cache_prompt": self._model._cache_prompt,
        }

    def _gone(self) -> bool:
        return self._model._stopping or self._sender.is_cancelled()

    def _on_events(self, events: Any) -> bool:
        """llama.cpp's callback, once a token and once a batch of prompt; True ends the generation."""
        try:
            self._model._pulse.beat()
            first = self._generation.input_tokens is None
            text = "".join(self._generation.take(event) for event in (events if isinstance(events, list) else [events]))
            if self._gone():
                return True
            self._pieces.append(text)
            # The first response goes out before the first token: it says how long the prompt is.
            if self._stream and not self._generation.finish_reason and (text or first):
                self._send(text, 0)
        except Exception as error:  # noqa: BLE001 - must not cross into C++; _run raises it again
            self._error = error
            return True
        return False

    def _end(self, finish_reason: str) -> None:
        self._generation.finish_reason = finish_reason
        self._write_log(finish_reason)
        if self._stream:
            # Text that came with the last event has not been sent.
            last = self._pieces[-1] if self._pieces and finish_reason != "cancelled" else ""
            self._send(last, FINAL)
        else:
            before = "" if self._exclude_input else self._text_input
            self._send(before + "".join(self._pieces), FINAL)

    def _send(self, text: str, flags: int) -> None:
        generation = self._generation
        tensors = [pb.Tensor("text_output", np.asarray([text.encode()], dtype=np.object_))]
        if self._wants["finish_reason"]:
            # The vLLM backend writes the text "None" while the answer goes on.
            reason = generation.finish_reason or "None"
            tensors.append(pb.Tensor("finish_reason", np.asarray([reason.encode()], dtype=np.object_)))
        if self._wants["num_input_tokens"]:
            tensors.append(pb.Tensor("num_input_tokens", np.asarray([generation.input_tokens or 0], np.uint32)))
        if self._wants["num_output_tokens"]:
            untold = generation.untold_output_tokens()
            tensors.append(pb.Tensor("num_output_tokens", np.asarray([untold], np.uint32)))
        self._sender.send(pb.InferenceResponse(tensors), flags=flags)

    def _fail(self, error: Exception, code: int) -> None:
        self._write_log("refused" if isinstance(error, Refusal) else "failed")
        self._sender.send(pb.InferenceResponse(error=pb.TritonError(str(error), code)), flags=FINAL)

    def _write_log(self, end: str) -> None:
        if not self._request_id.startswith(CANARY_PREFIX):
            self._model._log.write(
                self._request_id,
                input_tokens=self._generation.input_tokens or 0,
                output_tokens=self._generation.output_tokens,
                end=end,
            )


def _scalar(request: Any, name: str, default: Any) -> Any:
    tensor = pb.get_input_tensor_by_name(request, name)
    return default if tensor is None else tensor.as_numpy().reshape(-1)[0]


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
