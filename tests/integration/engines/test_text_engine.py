"""The text engine on a real Triton with a real model: its tensors, its counts, its refusals."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from engines.refusals import read_refusal
from engines.token_log import read_token_log
from services.deploy.compute.probes import probe
from tests.infra.instances import EngineClient, wait_until

PROMPT = "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n"


def logged(path: Path, request_id: str) -> dict[str, Any] | None:
    return next((line for line in read_token_log(path) if line["request_id"] == request_id), None)


async def test_every_response_carries_the_input_tokens(text_engine: EngineClient) -> None:
    """From the first response on, which comes before the first token."""
    answer = await text_engine.generate(PROMPT, max_tokens=5, temperature=0)
    assert set(answer.input_tokens) == {13}
    assert (answer.texts[0], answer.output_tokens[0]) == ("", 0)


async def test_deltas_add_up_to_what_the_engine_counted(text_engine: EngineClient, text_token_log: Path) -> None:
    answer = await text_engine.generate(PROMPT, request_id="sum", max_tokens=12, ignore_eos=True)
    assert sum(answer.output_tokens) == 12
    assert answer.finish_reasons[-1] == "length"
    assert set(answer.finish_reasons[:-1]) == {"None"}
    line = logged(text_token_log, "sum")
    assert line is not None
    assert (line["input_tokens"], line["output_tokens"], line["end"]) == (13, 12, "length")


async def test_tokens_are_counted_where_a_character_takes_several(text_engine: EngineClient) -> None:
    """Chunks hold whole characters, so there are fewer of them than tokens; tokens are what is counted."""
    prompt = "\N{ROCKET}\N{PARTY POPPER}" * 5
    answer = await text_engine.generate(prompt, max_tokens=24, temperature=0, ignore_eos=True)
    assert any(ord(letter) > 0xFFFF for letter in answer.text)
    assert "�" not in answer.text
    assert sum(1 for text in answer.texts if text) < sum(answer.output_tokens) == 24


async def test_a_rendered_prompt_has_the_tokens_of_the_models_own_chat_template(text_engine: EngineClient) -> None:
    """llama.cpp's chat handler counts 29 prompt tokens for these two messages."""
    prompt = (
        "<|im_start|>system\nYou are terse.<|im_end|>\n"
        "<|im_start|>user\nWhat is gravity? Größe \N{GRINNING FACE}<|im_end|>\n<|im_start|>assistant\n"
    )
    answer = await text_engine.generate(prompt, max_tokens=1)
    assert answer.input_tokens[-1] == 29


async def test_an_answer_without_streaming_is_one_response(text_engine: EngineClient) -> None:
    answer = await text_engine.generate(PROMPT, stream=False, exclude_input=True, max_tokens=4, temperature=0)
    streamed = await text_engine.generate(PROMPT, max_tokens=4, temperature=0)
    assert answer.texts == [streamed.text]
    assert (answer.input_tokens, answer.output_tokens) == ([13], [4])


async def test_without_streaming_the_input_comes_first_unless_excluded(text_engine: EngineClient) -> None:
    """As in the vLLM backend."""
    answer = await text_engine.generate("Once upon a", stream=False, max_tokens=1, temperature=0)
    assert answer.text.startswith("Once upon a")


async def test_a_stop_text_ends_the_answer_and_is_left_out(text_engine: EngineClient, text_token_log: Path) -> None:
    """Tokens held back because they might begin a stop text are counted, too."""
    prompt = "<|im_start|>user\nCount to ten: one, two, three<|im_end|>\n<|im_start|>assistant\n"
    free = await text_engine.generate(prompt, max_tokens=12, temperature=0)
    stop = free.text[4:12]
    answer = await text_engine.generate(prompt, request_id="stop", max_tokens=12, temperature=0, stop=[stop])
    assert answer.text == free.text[: free.text.index(stop)]
    assert answer.finish_reasons[-1] == "stop"
    line = logged(text_token_log, "stop")
    assert line is not None
    assert sum(answer.output_tokens) == line["output_tokens"]


async def test_one_seed_gives_one_answer(text_engine: EngineClient) -> None:
    first, again, other = [
        await text_engine.generate(PROMPT, max_tokens=12, temperature=1.5, seed=seed) for seed in (7, 7, 8)
    ]
    assert first.text == again.text != other.text


async def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths(
    text_engine: EngineClient, text_token_log: Path
) -> None:
    answer = await text_engine.generate("word " * 700, request_id="long", max_tokens=1)
    assert read_refusal(answer.error) == ("PROMPT_TOO_LONG", {"prompt_tokens": "701", "context_tokens": "512"})
    line = logged(text_token_log, "long")
    assert line is not None
    assert (line["input_tokens"], line["output_tokens"], line["end"]) == (0, 0, "refused")


async def test_an_answer_ends_where_the_context_does(text_engine: EngineClient) -> None:
    answer = await text_engine.generate("word " * 500, max_tokens=100, ignore_eos=True)
    assert answer.finish_reasons[-1] == "length"
    assert answer.input_tokens[-1] == 501
    assert sum(answer.output_tokens) <= 12


@pytest.mark.parametrize(
    ("sampling", "reason", "name"),
    [
        ({"top_kk": 3}, "UNKNOWN_PARAMETER", "top_kk"),
        ({"temperature": 3}, "INVALID_PARAMETER", "temperature"),
        ({"max_tokens": 0}, "INVALID_PARAMETER", "max_tokens"),
    ],
)
async def test_a_wrong_parameter_is_refused_by_name(
    text_engine: EngineClient, sampling: dict[str, Any], reason: str, name: str
) -> None:
    answer = await text_engine.generate(PROMPT, **sampling)
    found, facts = read_refusal(answer.error)
    assert (found, facts["name"]) == (reason, name)


async def test_a_client_that_hangs_up_ends_the_generation(text_engine: EngineClient, text_token_log: Path) -> None:
    """Within a second or so, with the totals in the engine's own account."""
    answer = await text_engine.generate(PROMPT, request_id="gone", cancel_after=4, max_tokens=450, ignore_eos=True)
    await wait_until(lambda: logged(text_token_log, "gone") is not None, timeout_s=5)
    line = logged(text_token_log, "gone")
    assert line is not None
    assert line["end"] == "cancelled"
    assert line["input_tokens"] == 13
    assert sum(answer.output_tokens) <= int(line["output_tokens"]) < 100


async def test_a_client_that_hangs_up_while_its_prompt_is_read_ends_that_too(
    text_engine: EngineClient, text_token_log: Path
) -> None:
    await text_engine.generate("word " * 480, request_id="gone early", cancel_after=1, max_tokens=20)
    await wait_until(lambda: logged(text_token_log, "gone early") is not None, timeout_s=10)
    line = logged(text_token_log, "gone early")
    assert line is not None
    assert (line["output_tokens"], line["end"]) == (0, "cancelled")


async def test_more_calls_than_slots_all_end_with_exact_counts(text_engine: EngineClient) -> None:
    answers = await asyncio.gather(
        *(text_engine.generate(PROMPT + str(n), max_tokens=8 + n, ignore_eos=True, seed=n) for n in range(6))
    )
    assert [sum(answer.output_tokens) for answer in answers] == [8, 9, 10, 11, 12, 13]


async def test_calls_beyond_the_queue_are_refused(text_engine: EngineClient) -> None:
    """Four are answered, eight wait; the rest may try again elsewhere."""
    answers = await asyncio.gather(
        *(text_engine.generate(PROMPT + str(n), max_tokens=4, ignore_eos=True) for n in range(16))
    )
    refused = [answer for answer in answers if answer.error]
    assert {read_refusal(answer.error)[0] for answer in refused} == {"ENGINE_BUSY"}
    assert 1 <= len(refused) <= 4


async def test_a_busy_engine_answers_its_canary(text_engine: EngineClient) -> None:
    """llama.cpp reads prompts one after the other, so a canary of its own would wait for all of them."""
    calls = [asyncio.create_task(text_engine.generate("word " * 480, max_tokens=1)) for _ in range(4)]
    began_s = time.perf_counter()
    for _ in range(2):
        await probe(text_engine.stub, "llamacpp", "model", {}, metadata=text_engine.metadata, timeout_s=5)
    canaries_s = time.perf_counter() - began_s
    await asyncio.gather(*calls)
    assert canaries_s < time.perf_counter() - began_s


async def test_no_rpc_answers_without_the_instances_secret(text_engine: EngineClient) -> None:
    """Another instance's secret does not open it either."""
    stub = text_engine.stub
    calls: list[tuple[Any, Any]] = [
        (stub.ServerLive, service_pb2.ServerLiveRequest()),
        (stub.ModelInfer, service_pb2.ModelInferRequest(model_name="model")),
        (stub.ModelMetadata, service_pb2.ModelMetadataRequest(name="model")),
        (stub.ModelConfig, service_pb2.ModelConfigRequest(name="model")),
        (stub.ModelStatistics, service_pb2.ModelStatisticsRequest(name="model")),
        (stub.RepositoryModelUnload, service_pb2.RepositoryModelUnloadRequest(model_name="model")),
        (stub.SystemSharedMemoryStatus, service_pb2.SystemSharedMemoryStatusRequest()),
        (stub.TraceSetting, service_pb2.TraceSettingRequest()),
        (stub.LogSettings, service_pb2.LogSettingsRequest()),
    ]
    other = (("triton-grpc-protocol-modelyard-instance", "0" * 64),)
    for call, request in calls:
        for metadata in ((), other):
            with pytest.raises(grpc.aio.AioRpcError, match="restricted"):
                await call(request, metadata=metadata, timeout=5)


async def test_the_token_log_and_triton_log_hold_no_text(text_engine: EngineClient, text_token_log: Path) -> None:
    await text_engine.generate("a very secret prompt", request_id="secret", max_tokens=2)
    folder = Path(text_engine.view.handle["folder"])
    await wait_until(lambda: logged(text_token_log, "secret") is not None)
    for path in folder.glob("*"):
        if path.is_file():
            assert b"very secret prompt" not in path.read_bytes(), path.name
