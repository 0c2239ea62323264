"""The gRPC face, and the Open Inference Protocol with the unmodified `tritonclient`, on real engines."""

from __future__ import annotations

import asyncio
import queue
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from modelyard.inference.v1 import inference_pb2, inference_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from chassis.ids import new_uid
from tests.infra.data_path import DataPath, token_log_line
from tests.integration.inference.conftest import Instances

PROMPT = "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n"
INPUT_TOKENS = 13


def metadata(key: str, request_id: str = "") -> tuple[tuple[str, str], ...]:
    given = (("authorization", f"Bearer {key}"),) if key else ()
    return (*given, ("x-request-id", request_id)) if request_id else given


def a_chat(**changes: Any) -> inference_pb2.ChatCompletionRequest:
    message = inference_pb2.ChatMessage(role="user", content="What is gravity?")
    return inference_pb2.ChatCompletionRequest(**{"model": "chat", "messages": [message], "max_tokens": 5, **changes})


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Every refusal carries ErrorInfo of our domain."""
    status = rpc_status.from_call(error)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert info.domain == "modelyard"
    return str(info.reason)


async def test_a_chat_completion_ends_with_its_usage(channel: grpc.aio.Channel, data_path: DataPath, key: str) -> None:
    request_id = new_uid()
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    answers = [one async for one in stub.ChatCompletion(a_chat(temperature=0), metadata=metadata(key, request_id))]
    billed = await data_path.billed(request_id)
    assert "".join(one.text for one in answers)
    assert (answers[-1].finish_reason, answers[-1].id) == ("length", billed.record.id)
    assert (answers[-1].usage.input_tokens, answers[-1].usage.output_tokens) == billed.tokens() == (INPUT_TOKENS, 5)


async def test_embeddings_are_those_of_rest(channel: grpc.aio.Channel, client: Any, key: str) -> None:
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    answer = await stub.Embed(inference_pb2.EmbedRequest(model="vectors", inputs=["gravity"]), metadata=metadata(key))
    rest = await client.embeddings.create(model="vectors", input="gravity")
    assert list(answer.embeddings[0].values) == rest.data[0].embedding
    assert answer.usage.input_tokens == rest.usage.prompt_tokens


async def test_what_is_callable_comes_in_pages(channel: grpc.aio.Channel, client: Any, key: str) -> None:
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    names: list[str] = []
    token = ""
    while True:
        request = inference_pb2.ListCallableRequest(page_size=5, page_token=token)
        page = await stub.ListCallable(request, metadata=metadata(key))
        assert len(page.callables) <= 5
        names += [one.model for one in page.callables]
        if not (token := page.next_page_token):
            break
    assert names == [model.id async for model in await client.models.list()]


async def test_a_client_that_cancels_ends_the_work(
    channel: grpc.aio.Channel, data_path: DataPath, instances: Instances, key: str
) -> None:
    request_id = new_uid()
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    call = stub.ChatCompletion(a_chat(max_tokens=450, temperature=1.5), metadata=metadata(key, request_id))
    for _ in range(3):
        await call.read()
    call.cancel()
    billed = await data_path.billed(request_id)
    line = await token_log_line(instances.text, billed.record.id)
    assert (billed.outcome, line["end"]) == ("CANCELLED", "cancelled")
    assert 3 <= billed.tokens()[1] <= line["output_tokens"] < 450


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (a_chat(model="nothing"), grpc.StatusCode.NOT_FOUND, "MODEL_NOT_CALLABLE"),
        (a_chat(model="theirs"), grpc.StatusCode.NOT_FOUND, "MODEL_NOT_CALLABLE"),
        (a_chat(model="vectors"), grpc.StatusCode.NOT_FOUND, "TASK_NOT_SUPPORTED"),
        (a_chat(model="retired"), grpc.StatusCode.FAILED_PRECONDITION, "MODEL_RETIRED"),
        (a_chat(model="waiting"), grpc.StatusCode.UNAVAILABLE, "NO_READY_INSTANCE"),
        (a_chat(max_tokens=-1), grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
        (a_chat(messages=[]), grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
        (a_chat(model=""), grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
        (
            a_chat(messages=[inference_pb2.ChatMessage(role="user", content="word " * 700)]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "PROMPT_TOO_LONG",
        ),
    ],
)
async def test_a_refusal_has_its_code_and_reason_and_is_free(
    channel: grpc.aio.Channel, data_path: DataPath, key: str, request_: Any, code: grpc.StatusCode, reason: str
) -> None:
    request_id = new_uid()
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        [one async for one in stub.ChatCompletion(request_, metadata=metadata(key, request_id))]
    assert (refused.value.code(), reason_of(refused.value)) == (code, reason)
    if reason == "PROMPT_TOO_LONG":
        assert (await data_path.billed(request_id)).tokens() == (0, 0)
    else:
        assert not [one for one in data_path.records() if one.record.request_id == request_id]


@pytest.mark.parametrize("kind", ["none", "wrong", "revoked", "expired"])
async def test_without_a_right_key_there_is_nothing(channel: grpc.aio.Channel, data_path: DataPath, kind: str) -> None:
    key = {
        "none": "",
        "wrong": "my_aaaaaaaa_aaaaaaaaaaaaaaaa",
        "revoked": await data_path.put_key(revoked=True),
        "expired": await data_path.put_key(expire_time=Timestamp(seconds=1)),
    }[kind]
    for call in (
        inference_pb2_grpc.InferenceServiceStub(channel).Embed(
            inference_pb2.EmbedRequest(model="vectors", inputs=["x"]), metadata=metadata(key)
        ),
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(an_echo("x"), metadata=metadata(key)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert (refused.value.code(), reason_of(refused.value)) == (grpc.StatusCode.UNAUTHENTICATED, "KEY_INVALID")


# The Open Inference Protocol


def an_echo(text: str, **changes: Any) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(**{"model_name": "echo", **changes})
    request.inputs.add(name="INPUT", datatype="BYTES", shape=[1])
    content = text.encode()
    request.raw_input_contents.append(len(content).to_bytes(4, "little") + content)
    return request


def text_input(name: str, text: str) -> triton.InferInput:
    tensor = triton.InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode()], dtype=np.object_))
    return tensor


def flag(name: str) -> triton.InferInput:
    tensor = triton.InferInput(name, [1], "BOOL")
    tensor.set_data_from_numpy(np.array([True]))
    return tensor


async def test_raw_tensors_pass_through_a_managed_route(data_path: DataPath, key: str) -> None:
    """Under the endpoint's own name, and recorded without a token."""
    request_id = new_uid()
    headers = dict(metadata(key, request_id))

    def call() -> Any:
        with triton.InferenceServerClient(data_path.grpc) as client:
            assert client.is_server_live(headers=headers)
            assert client.is_model_ready("echo", headers=headers)
            assert client.get_model_metadata("echo", headers=headers).name == "echo"
            assert client.get_model_config("echo", headers=headers).config.name == "echo"
            return client.infer("echo", [text_input("INPUT", "hello")], request_id="mine", headers=headers)

    answer = await asyncio.to_thread(call)
    assert answer.as_numpy("OUTPUT").tolist() == [b"hello"]
    assert (answer.get_response().model_name, answer.get_response().id) == ("echo", "mine")
    billed = await data_path.billed(request_id)
    assert (billed.outcome, billed.tokens()) == ("COMPLETED", (0, 0))


async def test_raw_streams_pass_through_a_managed_route(data_path: DataPath, key: str) -> None:
    """Each request of a stream is a call of its own, with its own record."""
    request_id = new_uid()
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    inputs = [
        text_input("text_input", PROMPT),
        text_input("sampling_parameters", '{"max_tokens": 3, "temperature": 0}'),
        *(flag(name) for name in ("stream", "exclude_input_in_output", "return_finish_reason")),
        *(flag(name) for name in ("return_num_input_tokens", "return_num_output_tokens")),
    ]

    def call() -> None:
        with triton.InferenceServerClient(data_path.grpc) as client:
            client.start_stream(
                lambda result, error: answers.put((result, error)), headers=dict(metadata(key, request_id))
            )
            for name in ("a", "b"):
                client.async_stream_infer("own", inputs, request_id=name)
            client.stop_stream()

    await asyncio.to_thread(call)
    received = [answers.get_nowait() for _ in range(answers.qsize())]
    assert [error for _, error in received if error] == []
    for name in ("a", "b"):
        mine = [result for result, _ in received if result.get_response().id == name]
        assert sum(int(result.as_numpy("num_output_tokens")[0]) for result in mine) == 3
        assert mine[-1].as_numpy("finish_reason").tolist() == [b"length"]
    found = [one for one in data_path.records() if one.record.request_id == request_id]
    assert [(one.outcome, one.tokens()) for one in found] == [("COMPLETED", (INPUT_TOKENS, 3))] * 2


async def test_a_raw_client_that_leaves_ends_the_work(
    channel: grpc.aio.Channel, data_path: DataPath, instances: Instances, key: str
) -> None:
    request_id = new_uid()
    request = service_pb2.ModelInferRequest(model_name="own")
    for name, text in (("text_input", PROMPT), ("sampling_parameters", '{"temperature": 1.5, "seed": 3}')):
        request.inputs.add(name=name, datatype="BYTES", shape=[1])
        request.raw_input_contents.append(len(text).to_bytes(4, "little") + text.encode())
    for name in ("stream", "return_num_input_tokens", "return_num_output_tokens"):
        request.inputs.add(name=name, datatype="BOOL", shape=[1])
        request.raw_input_contents.append(b"\x01")
    call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(metadata=metadata(key, request_id))
    await call.write(request)
    for _ in range(3):
        await call.read()
    call.cancel()
    billed = await data_path.billed(request_id)
    line = await token_log_line(instances.text, billed.record.id)
    assert (billed.outcome, line["end"]) == ("CANCELLED", "cancelled")
    assert billed.tokens()[1] <= line["output_tokens"] < 450


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (an_echo("x", model_name="vectors"), grpc.StatusCode.PERMISSION_DENIED, "RAW_TENSORS_ON_SERVERLESS"),
        (an_echo("x", model_name="theirs"), grpc.StatusCode.NOT_FOUND, "MODEL_NOT_CALLABLE"),
        (an_echo("x", model_version="2"), grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
        (
            an_echo("x", parameters={"priority": service_pb2.InferParameter(uint64_param=1)}),
            grpc.StatusCode.INVALID_ARGUMENT,
            "REQUEST_INVALID",
        ),
    ],
)
async def test_raw_calls_past_the_contract_are_refused_and_free(
    channel: grpc.aio.Channel, data_path: DataPath, key: str, request_: Any, code: grpc.StatusCode, reason: str
) -> None:
    request_id = new_uid()
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ModelInfer(request_, metadata=metadata(key, request_id))
    assert (refused.value.code(), reason_of(refused.value)) == (code, reason)
    call = stub.ModelStreamInfer(metadata=metadata(key, request_id))
    await call.write(request_)
    await call.done_writing()
    assert (await call.read()).error_message.startswith(f"{reason}: ")
    assert await call.read() is grpc.aio.EOF
    assert not [one for one in data_path.records() if one.record.request_id == request_id]


async def test_a_tensor_in_shared_memory_is_refused(channel: grpc.aio.Channel, key: str) -> None:
    request = an_echo("x")
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, metadata=metadata(key))
    assert reason_of(refused.value) == "REQUEST_INVALID"


@pytest.mark.parametrize(
    "method",
    [
        "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "ModelStatistics", "TraceSetting",
        "LogSettings", "SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister",
    ],
)  # fmt: skip
async def test_every_other_method_of_the_protocol_is_refused(channel: grpc.aio.Channel, key: str, method: str) -> None:
    request = getattr(service_pb2, f"{method}Request")()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await getattr(service_pb2_grpc.GRPCInferenceServiceStub(channel), method)(request, metadata=metadata(key))
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_client_of_a_serverless_endpoint_is_told_why_it_takes_no_tensors(data_path: DataPath, key: str) -> None:
    def call() -> None:
        with triton.InferenceServerClient(data_path.grpc) as client:
            client.infer("chat", [text_input("text_input", "x")], headers=dict(metadata(key)))

    with pytest.raises(InferenceServerException, match="is serverless and takes no raw tensors"):
        await asyncio.to_thread(call)
